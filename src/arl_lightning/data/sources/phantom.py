"""Generated samples. For demos and tests only: cartoons without clinical realism."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arl_lightning.data.anatomy import ANATOMIES, AnatomyVocabulary
from arl_lightning.data.phantom import generate_phantom
from arl_lightning.data.shards.sample import Sample
from arl_lightning.data.sources.source import Unit
from arl_lightning.errors import UserError

IMAGES_PER_PATIENT = 4


@dataclass(frozen=True)
class Phantom:
    """Phantoms that cycle through the anatomies; a made-up patient owns a few of one anatomy.

    Attributes:
        num_samples: How many there are.
        seed: Sample i depends on (seed, i) and its anatomy alone, so that a longer run begins with a shorter one.
        anatomies: Names of the vocabulary, `other` included.
        size: Height and width in pixels; None draws them for each sample.
        root: Not used: there are no files.

    Raises:
        UserError: If `num_samples` is below 1, the seed is negative or an anatomy is missing or unknown.
    """

    num_samples: int
    seed: int = 0
    anatomies: tuple[str, ...] = ANATOMIES
    size: tuple[int, int] | None = None
    root: Path = Path()
    name = "phantom"

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise UserError(f"num_samples: {self.num_samples} phantoms make no data set, ask for at least 1")
        if self.seed < 0:
            raise UserError(f"seed: {self.seed} is negative, give 0 or above")
        if not self.anatomies:
            raise UserError("anatomies: the list is empty, name at least one")
        vocabulary = AnatomyVocabulary()
        object.__setattr__(self, "anatomies", tuple(vocabulary.canonical(name) for name in self.anatomies))

    def units(self) -> list[Unit]:
        """List the phantoms, which are drawn when they are read."""
        names = [f"{self.anatomies[i % len(self.anatomies)]}/{i:06d}" for i in range(self.num_samples)]
        return [Unit(name, Path(name), index) for index, name in enumerate(names)]

    def read(self, unit: Unit) -> Iterator[Sample]:
        """Draw one."""
        lap, place = divmod(unit.details, len(self.anatomies))
        phantom = generate_phantom(self.anatomies[place], np.random.SeedSequence((self.seed, unit.details)), self.size)
        yield Sample(
            image=phantom.image,
            anatomy=phantom.anatomy,
            source=self.name,
            name=unit.name,
            patient=f"{phantom.anatomy}-{lap // IMAGES_PER_PATIENT:05d}",
            probe=phantom.probe,
            spacing_mm=phantom.spacing_mm,
        )
