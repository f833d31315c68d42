"""Scores of every structure in every image of a test part, and the file that keeps them.

R rows, one for each image and structure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from arl_lightning.errors import UserError
from arl_lightning.evaluation.predictions import GroupedBy, group_of, grouping_of
from arl_lightning.evaluation.tables import about, read_table, write_table

COLUMNS = ("dice", "iou", "hd95")


@dataclass(frozen=True)
class OverlapTable:
    """Scores of every structure in every image of the test part.

    Attributes:
        keys: Name each row's image in its task.
        patients: Identify the patient, None where unknown.
        structures: What each row's mask shows.
        dice, iou: (R,) in [0, 1].
        hd95: (R,) pixels, nan where one mask is empty.
        videos: Identify the clip that a frame is of, None for a still.

    Raises:
        UserError: If the columns do not fit each other, or an image has a structure twice.
    """

    keys: Sequence[str]
    patients: Sequence[str | None]
    structures: Sequence[str]
    dice: np.ndarray = field(repr=False)
    iou: np.ndarray = field(repr=False)
    hd95: np.ndarray = field(repr=False)
    videos: Sequence[str | None] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "videos", tuple(self.videos) or (None,) * len(self.keys))
        for name in ("keys", "patients", "structures"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in COLUMNS:
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        lengths = {len(getattr(self, name)) for name in ("keys", "patients", "structures", "videos", *COLUMNS)}
        if lengths != {len(self.keys)} or not self.keys:
            raise UserError(f"scores of masks: columns of {sorted(lengths)} rows")
        if len(set(zip(self.keys, self.structures, strict=True))) < len(self):
            raise UserError("scores of masks: an image has a structure twice")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def names(self) -> list[str]:
        """The structures, in the order of their first rows."""
        return list(dict.fromkeys(self.structures))

    @property
    def grouped_by(self) -> GroupedBy:
        """What `groups` tells apart."""
        return grouping_of(self.patients, self.videos)

    def groups(self) -> np.ndarray:
        """Return (R,) names of what is independent: the patient, else the clip, else the image."""
        return np.array([group_of(*each) for each in zip(self.keys, self.patients, self.videos, strict=True)], str)

    def write_parquet(self, path: Path) -> None:
        """Write one row for each image and structure."""
        words = {"key": self.keys, "patient": self.patients, "video": self.videos, "structure": self.structures}
        write_table(path, words, {name: getattr(self, name) for name in COLUMNS}, {}, about("segmentation"))

    @staticmethod
    def read_parquet(path: Path) -> "OverlapTable":
        """Read what `write_parquet` wrote.

        Raises:
            UserError: If the file is missing or not ours.
        """
        table, _ = read_table(path, "segmentation")
        words = {name: table[name].to_pylist() for name in ("key", "patient", "structure", "video")}
        scores = {name: table[name].to_numpy() for name in COLUMNS}
        return OverlapTable(words["key"], words["patient"], words["structure"], **scores, videos=words["video"])

    def statistic(self, places: np.ndarray) -> dict[str, float]:
        """Return the means over images of each structure, `dice/STRUCTURE`, and of these over structures, `dice`.

        Values that are not defined are left out; a mean of none is nan.
        """
        structures = np.array(self.structures)[places]
        found: dict[str, float] = {}
        rows = {name: places[structures == name] for name in self.names}
        for column in COLUMNS:
            values = getattr(self, column)
            own = {f"{column}/{name}": _mean(values[rows[name]]) for name in self.names}
            found |= {column: _mean(np.array(list(own.values()))), **own}
        return found


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
