import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.bus_uclm import BusUclm
from arl_lightning.errors import UserError

TABLE = """Image;Resolution;Label;Doppler;Marks;Combined
ALWI_000.png;60x50;Benign;No;Yes;No
ALWI_001.png;60x50;Normal;No;No;No
ANFO_000.png;60x50;Malignant;Yes;No;No
HESN_000.png;60x50;Normal;No;No;Yes
"""
NAMES = ["ALWI_000.png", "ALWI_001.png", "ANFO_000.png", "HESN_000.png"]


@pytest.fixture
def uclm(tmp_path, speckle) -> Path:
    (tmp_path / "INFO.csv").write_text(TABLE)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for seed, name in enumerate(NAMES):
            pixels = speckle(50, 60, seed=seed) if folder == "images" else np.zeros((50, 60, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / name)
    return tmp_path


def read(source: BusUclm) -> tuple[list[Sample], list[Rejected]]:
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def test_the_four_letters_of_a_name_are_the_patient(uclm, speckle):
    samples, rejected = read(BusUclm(uclm))
    assert not rejected
    assert [sample.name for sample in samples] == [f"images/{name}" for name in NAMES]
    assert [sample.patient for sample in samples] == ["ALWI", "ALWI", "ANFO", "HESN"]
    np.testing.assert_array_equal(samples[2].image, speckle(50, 60, seed=2))
    assert {(sample.source, sample.anatomy) for sample in samples} == {("bus_uclm", "breast")}


@pytest.mark.parametrize(
    ("leave_out", "kept"),
    [(("doppler",), [0, 1, 3]), (("marks",), [1, 2, 3]), (("doppler", "combined"), [0, 1])],
)
def test_flagged_images_are_left_out_on_request(uclm, leave_out, kept):
    samples, rejected = read(BusUclm(uclm, leave_out=leave_out))
    assert not rejected
    assert [sample.name for sample in samples] == [f"images/{NAMES[index]}" for index in kept]


def test_a_damaged_image_is_rejected_and_the_rest_is_read(uclm):
    (uclm / "images/ALWI_000.png").write_bytes(b"")
    samples, rejected = read(BusUclm(uclm))
    assert len(samples) == 3
    assert rejected == [Rejected(uclm / "images/ALWI_000.png", "empty file")]


def test_an_image_that_the_table_does_not_know_is_rejected(uclm):
    (uclm / "images/HESN_000.png").rename(uclm / "images/NEWW_000.png")
    samples, (lost, unknown) = read(BusUclm(uclm))
    assert len(samples) == 3
    assert lost.path.name == "HESN_000.png"
    assert unknown == Rejected(uclm / "images/NEWW_000.png", "no row in INFO.csv, so what it shows is unknown")


@pytest.mark.parametrize("entry", ["images", "INFO.csv"])
def test_what_is_missing_is_named_with_where_to_ask(uclm, entry):
    (uclm / entry).rename(uclm / "elsewhere")
    with pytest.raises(UserError, match=rf"{entry}: missing.*Mendeley Data"):
        BusUclm(uclm).units()


def test_a_table_without_the_flag_that_is_asked_for_is_refused(uclm):
    (uclm / "INFO.csv").write_text("Image;Label\nALWI_000.png;Benign\n")
    assert len(BusUclm(uclm).units()) == 4
    with pytest.raises(UserError, match=r"INFO\.csv: has no column 'Doppler'"):
        BusUclm(uclm, leave_out=("doppler",)).units()


def test_it_travels_to_another_process(uclm):
    source = BusUclm(uclm, leave_out=("doppler",))
    assert pickle.loads(pickle.dumps(source)).units() == source.units()  # noqa: S301 (its own bytes)
