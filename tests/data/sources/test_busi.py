import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.busi import Busi
from arl_lightning.errors import UserError


@pytest.fixture
def busi(tmp_path, speckle) -> Path:
    for seed, label in enumerate(("benign", "malignant", "normal")):
        folder = tmp_path / "Dataset_BUSI_with_GT" / label
        folder.mkdir(parents=True)
        for number in (1, 2):
            Image.fromarray(speckle(50, 60, seed=10 * seed + number)).save(folder / f"{label} ({number}).png")
            Image.fromarray(speckle(50, 60) > 128).save(folder / f"{label} ({number})_mask.png")
        Image.fromarray(speckle(50, 60) > 128).save(folder / f"{label} (1)_mask_1.png")
    return tmp_path / "Dataset_BUSI_with_GT"


def read(source: Busi) -> tuple[list[Sample], list[Rejected]]:
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def test_images_of_all_classes_are_read_and_masks_are_not(busi, speckle):
    samples, rejected = read(Busi(busi))
    assert not rejected
    assert [sample.name for sample in samples] == [
        f"{label}/{label} ({number}).png" for label in ("benign", "malignant", "normal") for number in (1, 2)
    ]
    np.testing.assert_array_equal(samples[3].image, speckle(50, 60, seed=12))
    assert {(s.source, s.anatomy, s.patient, s.video) for s in samples} == {("busi", "breast", None, None)}


def test_a_list_of_training_images_keeps_all_others_out(busi, tmp_path):
    listed = tmp_path / "train.txt"
    listed.write_text("malignant (2).png\n\nbenign (1).png\n")
    samples, rejected = read(Busi(busi, images=listed))
    assert not rejected
    assert [sample.name for sample in samples] == ["benign/benign (1).png", "malignant/malignant (2).png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("benign (1).png\nbenign (9).png\n", r"train\.txt: names 'benign \(9\)\.png' \(1 such\)"),
        ("benign (1)_mask.png\n", r"names 'benign \(1\)_mask\.png'"),
        ("\n", r"train\.txt: names nothing"),
        (None, r"train\.txt: No such file"),
    ],
)
def test_a_list_that_is_not_of_its_images_is_refused(busi, tmp_path, content, message):
    if content is not None:
        (tmp_path / "train.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        Busi(busi, images=tmp_path / "train.txt").units()


def test_a_damaged_image_is_rejected_and_the_rest_is_read(busi):
    path = busi / "normal/normal (2).png"
    path.write_bytes(path.read_bytes()[:500])
    samples, (rejected,) = read(Busi(busi))
    assert len(samples) == 5
    assert rejected.path == path


def test_what_is_missing_is_named_with_where_to_ask(busi, tmp_path):
    (busi / "normal").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"normal: missing.*Cairo University"):
        Busi(busi).units()
    for label in ("benign", "malignant", "normal"):
        (tmp_path / "empty" / label).mkdir(parents=True)
    with pytest.raises(UserError, match="empty: holds no image of BUSI"):
        Busi(tmp_path / "empty").units()


def test_it_travels_to_another_process(busi, tmp_path):
    (tmp_path / "train.txt").write_text("benign (1).png\n")
    source = Busi(busi, images=tmp_path / "train.txt")
    assert pickle.loads(pickle.dumps(source)).units() == source.units()  # noqa: S301 (its own bytes)


def test_every_real_image_is_read(ultrasound_data):
    source = Busi(ultrasound_data / "busi/Dataset_BUSI_with_GT")
    counts, names = {"benign": 0, "malignant": 0, "normal": 0}, set()
    for unit in source.units():
        (sample,) = source.read(unit)
        assert isinstance(sample, Sample), sample
        counts[sample.name.split("/")[0]] += 1
        names.add(sample.name)
    assert counts == {"benign": 437, "malignant": 210, "normal": 133}
    assert len(names) == 780


def test_a_released_file_keeps_its_pixels(ultrasound_data):
    source = Busi(ultrasound_data / "busi_full_resolution_sample/Dataset_BUSI_with_GT")
    samples, rejected = read(source)
    assert (len(samples), rejected) == (12, [])
    sample = next(sample for sample in samples if sample.name == "benign/benign (100).png")
    original = np.asarray(Image.open(source.root / sample.name).convert("RGB"))
    assert np.array_equal(sample.image, original if sample.image.ndim == 3 else original[..., 0])
