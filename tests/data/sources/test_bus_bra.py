import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.bus_bra import BusBra
from arl_lightning.errors import UserError

HEADER = "ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX\n"
VIEWS = [("bus_0001-l", 1), ("bus_0001-r", 1), ("bus_0002-s", 2)]


@pytest.fixture
def busbra(tmp_path, speckle) -> Path:
    (tmp_path / "Images").mkdir()
    (tmp_path / "Masks").mkdir()
    rows = [f'{view},{case},fibroadenoma,benign,3,"GE Logiq 7",60,50,left,"[1,2,3,4]"\n' for view, case in VIEWS]
    (tmp_path / "bus_data.csv").write_text(HEADER + "".join(rows))
    (tmp_path / "5-fold-cv.csv").write_text("ID,Pathology,kFold\nbus_0001-l,benign,1\n")
    for seed, (view, _) in enumerate(VIEWS):
        Image.fromarray(speckle(50, 60, seed=seed)).save(tmp_path / "Images" / f"{view}.png")
        Image.fromarray(speckle(50, 60) > 128).save(tmp_path / "Masks" / f"{view.replace('bus', 'mask')}.png")
    return tmp_path


def read(source: BusBra) -> tuple[list[Sample], list[Rejected]]:
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def test_images_come_with_their_case_and_masks_do_not_come(busbra, speckle):
    samples, rejected = read(BusBra(busbra))
    assert not rejected
    assert [(sample.name, sample.patient) for sample in samples] == [
        ("Images/bus_0001-l.png", "1"),
        ("Images/bus_0001-r.png", "1"),
        ("Images/bus_0002-s.png", "2"),
    ]
    np.testing.assert_array_equal(samples[1].image, speckle(50, 60, seed=1))
    assert {(sample.source, sample.anatomy, sample.video) for sample in samples} == {("bus_bra", "breast", None)}


def test_a_damaged_image_is_rejected_and_the_rest_is_read(busbra):
    path = busbra / "Images/bus_0001-r.png"
    path.write_bytes(path.read_bytes()[:900])
    samples, (rejected,) = read(BusBra(busbra))
    assert [sample.name for sample in samples] == ["Images/bus_0001-l.png", "Images/bus_0002-s.png"]
    assert rejected.path == path


def test_rows_without_an_image_and_images_without_a_row_are_rejected(busbra):
    (busbra / "Images/bus_0002-s.png").rename(busbra / "Images/bus_0003-s.png")
    samples, (lost, unknown) = read(BusBra(busbra))
    assert len(samples) == 2
    assert lost == Rejected(busbra / "Images/bus_0002-s.png", "No such file or directory")
    assert unknown.path == busbra / "Images/bus_0003-s.png"
    assert "its patient is unknown" in unknown.reason


@pytest.mark.parametrize("entry", ["Images", "bus_data.csv"])
def test_what_is_missing_is_named_with_where_to_ask(busbra, entry):
    (busbra / entry).rename(busbra / "elsewhere")
    with pytest.raises(UserError, match=rf"{entry}: missing.*zenodo\.8231412"):
        BusBra(busbra).units()


def test_a_table_without_cases_is_refused(busbra):
    (busbra / "bus_data.csv").write_text("ID,Pathology\nbus_0001-l,benign\n")
    with pytest.raises(UserError, match=r"bus_data\.csv: has no column 'Case'"):
        BusBra(busbra).units()


def test_it_travels_to_another_process(busbra):
    source = BusBra(busbra)
    assert pickle.loads(pickle.dumps(source)).units() == source.units()  # noqa: S301 (its own bytes)
