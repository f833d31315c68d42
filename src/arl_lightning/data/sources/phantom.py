"""Generated samples. For demos and tests only: cartoons without clinical realism."""

from collections.abc import Iterator, Sequence

import numpy as np

from arl_lightning.data.anatomy import ANATOMIES, AnatomyVocabulary
from arl_lightning.data.phantom import generate_phantom
from arl_lightning.data.shards.sample import Sample
from arl_lightning.errors import UserError

IMAGES_PER_PATIENT = 4


def read_phantom(
    num_samples: int,
    seed: int = 0,
    anatomies: Sequence[str] = ANATOMIES,
    size: tuple[int, int] | None = None,
) -> Iterator[Sample]:
    """Yield phantoms that cycle through the anatomies. For demos and tests only.

    Args:
        num_samples: How many to yield.
        seed: Sample i depends on (seed, i) and its anatomy alone, so that a longer run begins with a shorter one.
        anatomies: Names of the vocabulary, `other` included.
        size: Height and width in pixels; None draws them for each sample.

    Raises:
        UserError: If `num_samples` is below 1, the seed is negative or an anatomy is missing or unknown; before the
            first sample is drawn.
    """
    if num_samples < 1:
        raise UserError(f"num_samples: {num_samples} phantoms make no data set, ask for at least 1")
    if seed < 0:
        raise UserError(f"seed: {seed} is negative, give 0 or above")
    if not anatomies:
        raise UserError("anatomies: the list is empty, name at least one")
    vocabulary = AnatomyVocabulary()
    names = [vocabulary.canonical(anatomy) for anatomy in anatomies]
    return (phantom_sample(index, seed, names, size) for index in range(num_samples))


def phantom_sample(
    index: int, seed: int = 0, anatomies: Sequence[str] = ANATOMIES, size: tuple[int, int] | None = None
) -> Sample:
    """Return the sample that `read_phantom` yields at an index, without drawing those before it.

    A made-up patient owns a few samples of one anatomy. For demos and tests only.
    """
    lap, place = divmod(index, len(anatomies))
    phantom = generate_phantom(anatomies[place], np.random.SeedSequence((seed, index)), size)
    return Sample(
        image=phantom.image,
        anatomy=phantom.anatomy,
        source="phantom",
        name=f"{phantom.anatomy}/{index:06d}",
        patient=f"{phantom.anatomy}-{lap // IMAGES_PER_PATIENT:05d}",
        probe=phantom.probe,
        spacing_mm=phantom.spacing_mm,
    )
