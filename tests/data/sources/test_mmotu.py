import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.mmotu import Mmotu
from arl_lightning.errors import UserError

TRAIN, VAL = ("1", "3"), ("2",)
NAMES = [f"{folder}/images/{stem}.JPG" for folder in ("OTU_2d", "OTU_3d") for stem in ("1", "2", "3")]


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95) if path.suffix == ".JPG" else Image.fromarray(image).save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    """Image n of a folder is grey level 20 n, plus 100 in OTU_3d; masks are white."""
    for level, folder in ((0, "OTU_2d"), (100, "OTU_3d")):
        for stem in ("1", "2", "3"):
            save(tmp_path / folder / "images" / f"{stem}.JPG", np.full((40, 50), level + 20 * int(stem), np.uint8))
            for suffix in ("", "_binary", "_binary_binary"):
                save(tmp_path / folder / "annotations" / f"{stem}{suffix}.PNG", np.full((40, 50), 255, np.uint8))
        for split, stems in (("train", TRAIN), ("val", VAL)):
            (tmp_path / folder / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
            (tmp_path / folder / f"{split}_cls.txt").write_text("".join(f"{stem}.JPG  0\n" for stem in stems))
    return tmp_path


def read(source: Mmotu) -> tuple[list[Sample], list[Rejected]]:
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def names(source: Mmotu) -> list[str]:
    return [unit.name for unit in source.units()]


def test_the_images_of_both_parts_are_read_and_no_annotation_is(root):
    samples, rejected = read(Mmotu(root))
    assert not rejected
    assert [sample.name for sample in samples] == NAMES
    assert [int(sample.image[20, 25]) for sample in samples] == [20, 40, 60, 120, 140, 160]


def test_an_image_has_the_anatomy_other_and_no_patient(root):
    sample = read(Mmotu(root))[0][0]
    assert (sample.anatomy, sample.source, sample.image.shape) == ("other", "mmotu", (40, 50))
    assert (sample.patient, sample.video, sample.frame, sample.probe) == (None, None, None, None)


@pytest.mark.parametrize(("parts", "expected"), [(("2d",), NAMES[:3]), (("ceus",), NAMES[3:])])
def test_a_part_is_a_folder(root, parts, expected):
    assert names(Mmotu(root, parts=parts)) == expected


@pytest.mark.parametrize(("split", "stems"), [("train", TRAIN), ("val", VAL)])
def test_a_split_is_the_list_of_that_name(root, split, stems):
    assert names(Mmotu(root, parts=("2d",), split=split)) == [f"OTU_2d/images/{stem}.JPG" for stem in stems]


def test_the_contrast_enhanced_part_may_have_the_name_of_the_article(root):
    (root / "OTU_3d").rename(root / "OTU_CEUS")
    assert names(Mmotu(root, parts=("ceus",))) == [f"OTU_CEUS/images/{stem}.JPG" for stem in "123"]


def test_a_part_that_is_not_asked_for_may_be_absent(root):
    (root / "OTU_3d").rename(root / "elsewhere")
    assert names(Mmotu(root, parts=("2d",))) == NAMES[:3]
    with pytest.raises(UserError, match=r"OTU_3d/images: missing; .*MMOTU_DS2Net"):
        Mmotu(root).units()


def test_a_damaged_image_is_rejected_and_the_others_are_read(root):
    (root / NAMES[1]).write_bytes(b"\xff\xd8 no picture")
    samples, rejected = read(Mmotu(root))
    assert [item.path for item in rejected] == [root / NAMES[1]]
    assert [sample.name for sample in samples] == [NAMES[0], *NAMES[2:]]


def test_a_listed_image_that_is_absent_is_rejected(root):
    (root / NAMES[2]).unlink()
    samples, rejected = read(Mmotu(root, parts=("2d",), split="train"))
    assert [sample.name for sample in samples] == [NAMES[0]]
    assert rejected == [Rejected(root / NAMES[2], "No such file or directory")]


def test_a_missing_list_is_named(root):
    (root / "OTU_2d/val.txt").unlink()
    assert names(Mmotu(root)) == NAMES
    with pytest.raises(UserError, match=r"OTU_2d/val\.txt: missing; .*MMOTU_DS2Net"):
        Mmotu(root, split="val").units()


def test_an_empty_list_is_refused(root):
    (root / "OTU_2d/train.txt").write_text("\n")
    with pytest.raises(UserError, match=r"train\.txt: names nothing; copy MMOTU again"):
        Mmotu(root, split="train").units()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ()}, "parts: the list is empty"),
        ({"parts": ("3d",)}, "parts: '3d' is unknown; choose from 2d, ceus"),
        ({"split": "test"}, "split: 'test' is unknown; choose from all, train, val"),
    ],
)
def test_a_wrong_option_is_refused_with_the_choices(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        Mmotu(tmp_path, **options)


def test_the_source_travels_to_a_worker(tmp_path):
    source = Mmotu(tmp_path, parts=("2d",), split="train")
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 (bytes of our own)
