"""One image on its way from a source to a shard, and its record there."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One decoded image with what is known of it; every source yields these.

    Attributes:
        image: uint8, (H, W) grey or (H, W, 3) RGB.
        anatomy: A name of the vocabulary.
        source: The data set or folder it came from.
        name: Unique within the source, stable from run to run (for a file: its path relative to the root; for a
            clip's frame: that and the frame's number).
        patient: Identifies the patient within the source, None where unknown.
        video: Identifies the clip within the source, None for a still.
        frame: Index of the frame in its clip, from 0; None for a still.
        probe: `linear`, `convex`, `sector`, or None where unknown.
        spacing_mm: Pixel height and width in millimetres, None where unknown.
    """

    image: np.ndarray
    anatomy: str
    source: str
    name: str
    patient: str | None = None
    video: str | None = None
    frame: int | None = None
    probe: str | None = None
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class Rejected:
    """A file, or the part of a clip, that a source could not read.

    Attributes:
        path: The file.
        reason: What is wrong with it, in a few words.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class Flagged:
    """A file whose samples are packed, but which a person should look at.

    Attributes:
        path: The file.
        reason: Why, in a few words.
    """

    path: Path
    reason: str


class Record(TypedDict):
    """The `<key>.json` beside every image in a shard.

    `height` and `width` are the packed image's, `sha256` that of its encoded bytes; the others as in `Sample`.
    """

    anatomy: str
    source: str
    name: str
    patient: str | None
    video: str | None
    frame: int | None
    height: int
    width: int
    probe: str | None
    spacing_mm: tuple[float, float] | None
    sha256: str
