"""A made-up task whose files a test writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from arl_lightning.data.tasks.case import Case, Listing

CLASSES = ("benign", "malignant")


@dataclass(frozen=True)
class MadeTask:
    """A task with a given listing."""

    root: Path
    cases: tuple[Case, ...]
    table: Path | None = None
    classes: tuple[str, ...] = CLASSES
    structures: tuple[str, ...] = ()
    name = "made"
    anatomy = "breast"
    where = "ask nobody"
    metrics = ("accuracy",)

    def listing(self) -> Listing:
        return listing_of(self.cases, self.classes, self.structures)


def listing_of(cases: Sequence[Case], classes: tuple[str, ...] = CLASSES, structures: tuple[str, ...] = ()) -> Listing:
    positive = "malignant" if "malignant" in classes else None
    return Listing(tuple(sorted(cases, key=lambda case: case.key)), classes, positive, structures)


def write_image(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_cases(root: Path, num: int, height: int = 40, width: int = 48, **details: str) -> list[Case]:
    """Write noise images of alternating classes, each of its own patient."""
    cases = []
    for number in range(num):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width), dtype=np.uint8)
        path = write_image(root / f"{number:03}.png", pixels)
        cases.append(Case(path.name, path, label=CLASSES[number % 2], **details))
    return cases
