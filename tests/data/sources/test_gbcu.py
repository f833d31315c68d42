import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.gbcu import Gbcu
from arl_lightning.errors import UserError

TRAIN, TEST = ("im00001.jpg", "im00003.jpg"), ("im00002.jpg",)


@pytest.fixture
def root(tmp_path) -> Path:
    """Image n is grey level 50 n; `im00004.jpg` stands in no list."""
    (tmp_path / "imgs").mkdir()
    for number in (1, 2, 3, 4):
        image = Image.fromarray(np.full((40, 50), 50 * number, np.uint8))
        image.save(tmp_path / "imgs" / f"im{number:05d}.jpg", quality=95)
    (tmp_path / "train.txt").write_text("".join(f"{name},1\n" for name in reversed(TRAIN)))
    (tmp_path / "test.txt").write_text("".join(f"{name},2\n" for name in TEST))
    (tmp_path / "bbox_annot.json").write_text(
        json.dumps({name: {"dim": [50, 40], "bbs": [["nml", [1, 2, 30, 20]]]} for name in TRAIN + TEST})
    )
    return tmp_path


def read(source: Gbcu) -> tuple[list[Sample], list[Rejected]]:
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, TRAIN), ({"split": "train"}, TRAIN), ({"split": "test"}, TEST), ({"split": "all"}, sorted(TRAIN + TEST))],
)
def test_a_split_is_the_list_of_that_name_and_the_default_leaves_the_test_out(root, options, expected):
    samples, rejected = read(Gbcu(root, **options))
    assert not rejected
    assert [sample.name for sample in samples] == [f"imgs/{name}" for name in expected]


def test_a_folder_named_otherwise_gives_the_same_names(root):
    (root / "imgs").rename(root / "imgsQ")
    samples, rejected = read(Gbcu(root))
    assert not rejected
    assert [sample.name for sample in samples] == [f"imgs/{name}" for name in TRAIN]


def test_the_default_needs_no_test_list(root):
    (root / "test.txt").unlink()
    assert len(Gbcu(root).units()) == 2
    with pytest.raises(UserError, match=r"test\.txt: missing"):
        Gbcu(root, split="all").units()


def test_an_image_keeps_its_pixels_and_has_no_patient(root):
    sample = read(Gbcu(root))[0][1]
    assert sample.image.shape == (40, 50)
    assert (sample.image == 150).all()
    assert (sample.anatomy, sample.source) == ("gallbladder", "gbcu")
    assert (sample.patient, sample.video, sample.frame, sample.probe, sample.spacing_mm) == (None,) * 5


def test_a_damaged_and_an_absent_image_are_rejected_and_the_rest_is_read(root):
    (root / "imgs/im00001.jpg").write_bytes(b"\xff\xd8 no picture")
    (root / "imgs/im00002.jpg").unlink()
    samples, rejected = read(Gbcu(root, split="all"))
    assert [item.path.name for item in rejected] == ["im00001.jpg", "im00002.jpg"]
    assert [sample.name for sample in samples] == ["imgs/im00003.jpg"]


@pytest.mark.parametrize("entry", ["imgs", "train.txt"])
def test_a_missing_entry_is_named_with_where_to_ask(root, entry):
    (root / entry).rename(root / "elsewhere")
    with pytest.raises(UserError, match=rf"{entry}: missing; .*IIT Delhi"):
        Gbcu(root).units()


@pytest.mark.parametrize("line", ["im00001.jpg", "im00001.jpg;0", ",0", "im00001.jpg,benign", "../im00001.jpg,0"])
def test_a_line_of_another_form_is_refused(root, line):
    (root / "train.txt").write_text(f"im00003.jpg,1\n{line}\n")
    with pytest.raises(UserError, match=rf"train\.txt: '{line}' is not of the form im00001\.jpg,0"):
        Gbcu(root).units()


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="split: 'val' is unknown; choose from train, test, all"):
        Gbcu(tmp_path, split="val")


def test_the_source_travels_to_a_worker(tmp_path):
    source = Gbcu(tmp_path, split="all")
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 (bytes of our own)
