from collections.abc import Iterator

import numpy as np
import pytest

from arl_lightning.data.anatomy import ANATOMIES
from arl_lightning.data.shards.sample import Sample
from arl_lightning.data.sources.phantom import Phantom
from arl_lightning.errors import UserError

SIZE = (64, 80)


def read_phantom(num_samples: int, **options) -> Iterator[Sample]:
    source = Phantom(num_samples, **options)
    return (sample for unit in source.units() for sample in source.read(unit))


def test_samples_cycle_through_the_anatomies_with_unique_names() -> None:
    samples = list(read_phantom(2 * len(ANATOMIES), size=SIZE))
    assert [sample.anatomy for sample in samples] == [*ANATOMIES, *ANATOMIES]
    assert samples[17].name == "aorta/000017"
    assert len({sample.name for sample in samples}) == len(samples)


def test_sample_can_be_made_alone() -> None:
    source = Phantom(6, seed=9, anatomies=("lung", "msk"), size=SIZE)
    *_, last = read_phantom(6, seed=9, anatomies=("lung", "msk"), size=SIZE)
    (alone,) = source.read(source.units()[5])
    assert last.name == alone.name == "muscle/000005"
    assert np.array_equal(last.image, alone.image)


def test_longer_run_begins_with_the_shorter_one() -> None:
    short, long = list(read_phantom(3, size=SIZE)), list(read_phantom(5, size=SIZE))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(short, long, strict=False))


def test_seeds_give_different_samples() -> None:
    first, second = (next(read_phantom(1, seed=seed, size=SIZE)) for seed in (0, 1))
    assert not np.array_equal(first.image, second.image)


def test_metadata_describe_the_picture() -> None:
    for sample in read_phantom(17, anatomies=[*ANATOMIES, "other"]):
        assert sample.source == "phantom"
        assert sample.probe in {"linear", "convex", "sector"}
        assert sample.video is None
        assert sample.spacing_mm is not None
        assert 10.0 < sample.spacing_mm[0] * sample.image.shape[0] < 400.0
        assert sample.spacing_mm[0] == sample.spacing_mm[1]
        assert 64 <= sample.image.shape[0] <= 960
        assert 64 <= sample.image.shape[1] <= 1280


def test_patient_owns_several_samples_of_one_anatomy() -> None:
    patients = [sample.patient for sample in read_phantom(10, anatomies=["liver", "lung"], size=SIZE)]
    assert patients[0] == patients[2] == patients[6]
    assert patients[0] != patients[8]
    assert patients[0] != patients[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples: 0"),
        ({"num_samples": 1, "seed": -1}, "seed: -1"),
        ({"num_samples": 1, "anatomies": []}, "anatomies"),
        ({"num_samples": 1, "anatomies": ["livr"]}, "did you mean 'liver'"),
    ],
)
def test_mistakes_are_refused_before_the_first_sample(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Phantom(**arguments)
