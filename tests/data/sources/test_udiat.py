import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.udiat import Udiat
from arl_lightning.errors import UserError


@pytest.fixture
def dataset_b(tmp_path, speckle) -> Path:
    (tmp_path / "DatasetB.xlsx").write_bytes(b"PK")
    for folder in ("original", "GT"):
        (tmp_path / folder).mkdir()
        for number in (1, 2, 10):
            Image.fromarray(speckle(50, 60, seed=number)).save(tmp_path / folder / f"{number:06d}.png")
    return tmp_path


def read(source: Udiat) -> tuple[list[Sample], list[Rejected]]:
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def test_originals_are_read_and_masks_are_not(dataset_b, speckle):
    samples, rejected = read(Udiat(dataset_b))
    assert not rejected
    assert [sample.name for sample in samples] == [f"original/{number:06d}.png" for number in (1, 2, 10)]
    np.testing.assert_array_equal(samples[2].image, speckle(50, 60, seed=10))
    assert {(s.source, s.anatomy, s.patient, s.video) for s in samples} == {("udiat", "breast", None, None)}


def test_a_damaged_image_is_rejected_and_the_rest_is_read(dataset_b):
    (dataset_b / "original/000002.png").write_bytes(b"not a picture")
    samples, rejected = read(Udiat(dataset_b))
    assert len(samples) == 2
    assert rejected == [Rejected(dataset_b / "original/000002.png", "not an image of a known format")]


def test_what_is_missing_is_named_with_where_to_ask(dataset_b):
    (dataset_b / "original").rename(dataset_b / "elsewhere")
    with pytest.raises(UserError, match=r"original: missing.*Manchester Metropolitan University"):
        Udiat(dataset_b).units()
    (dataset_b / "original").mkdir()
    with pytest.raises(UserError, match="original: holds no image of UDIAT"):
        Udiat(dataset_b).units()
    with pytest.raises(UserError, match=r"no such folder.*Manchester"):
        Udiat(dataset_b / "nowhere").units()


def test_it_travels_to_another_process(dataset_b):
    source = Udiat(dataset_b)
    assert pickle.loads(pickle.dumps(source)).units() == source.units()  # noqa: S301 (its own bytes)
