import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.fallmud import Fallmud
from arl_lightning.errors import UserError

NAMES = [
    "NeilCronin/images/img_00001.tif",
    "NeilCronin/images/img_00002.tif",
    "RyanCunningham/images/0.jpg",
    "RyanCunningham/images/1.jpg",
]


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def root(tmp_path, speckle) -> Path:
    white = np.full((50, 40), 255, np.uint8)
    for seed, name in enumerate(NAMES):
        path = tmp_path / name
        save(path, speckle(40, 50, seed=seed))
        save(path.parents[1] / "fascicle_masks" / path.name, white.T)
        save(path.parents[1] / "aponeurosis_masks" / path.with_suffix(".jpg").name, white)
    return tmp_path


def read(root: Path) -> tuple[list[Sample], list[Rejected]]:
    source = Fallmud(root)
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def test_the_images_of_both_collections_are_read_and_no_mask_is(root):
    samples, rejected = read(root)
    assert not rejected
    assert [sample.name for sample in samples] == NAMES
    assert all(sample.image.min() < 255 for sample in samples)


def test_an_image_keeps_its_pixels_and_has_neither_patient_nor_clip(root, speckle):
    sample = read(root)[0][1]
    np.testing.assert_array_equal(sample.image, speckle(40, 50, seed=1))
    assert (sample.anatomy, sample.source, sample.probe) == ("muscle", "fallmud", "linear")
    assert (sample.patient, sample.video, sample.frame, sample.spacing_mm) == (None, None, None, None)


def test_a_damaged_image_is_rejected_and_the_others_are_read(root):
    path = root / NAMES[2]
    path.write_bytes(path.read_bytes()[:300])
    samples, rejected = read(root)
    assert [item.path for item in rejected] == [path]
    assert [sample.name for sample in samples] == [NAMES[0], NAMES[1], NAMES[3]]


def test_a_missing_collection_is_named_with_where_to_ask(root):
    (root / "RyanCunningham").rename(root / "Cunningham")
    with pytest.raises(UserError, match=r"RyanCunningham/images: missing; .*Kalisteo"):
        Fallmud(root).units()


def test_an_empty_collection_is_refused(root):
    for name in NAMES[:2]:
        (root / name).unlink()
    with pytest.raises(UserError, match="NeilCronin/images: holds no image"):
        Fallmud(root).units()


def test_the_source_travels_to_a_worker(tmp_path):
    source = Fallmud(tmp_path, anatomy="soft_tissue")
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 (bytes of our own)
