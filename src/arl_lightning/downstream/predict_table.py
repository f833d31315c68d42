"""The table of predictions, on the screen and as a csv file.

K classes, or structures of a mask.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arl_lightning.data.wording import one_line
from arl_lightning.downstream.load import LoadedRun
from arl_lightning.evaluation.files import replacing
from arl_lightning.evaluation.wording import aligned

MEAN = "mean"  # in the column `frame`, of a clip's row


@dataclass(frozen=True)
class Row:
    """What is said of an image, a frame or a clip.

    Attributes:
        file: Its path.
        frame: The frame's index, `mean` for a whole clip, empty for a still.
        prediction: The class; empty for segmentation.
        values: (K,) probabilities, or areas of structures in the image's own pixels; None where it was not read.
        problem: What was wrong with the file; empty where nothing was.
    """

    file: Path
    frame: str = ""
    prediction: str = ""
    values: np.ndarray | None = None
    problem: str = ""


def header(run: LoadedRun) -> list[str]:
    """Name the columns."""
    if run.segments:
        return ["file", "frame", *(f"area_{name}" for name in run.structures), "problem"]
    return ["file", "frame", "prediction", *(f"prob_{name}" for name in run.classes), "problem"]


def table(run: LoadedRun, rows: Sequence[Row]) -> str:
    """Return an aligned table; a column that is empty in all rows is left out."""
    names = header(run)
    cells = [_cells(run, row, shortly=True) for row in rows]
    kept = [place for place, name in enumerate(names) if name == "file" or any(each[place] for each in cells)]
    return aligned([names[place] for place in kept], [[each[place] for place in kept] for each in cells])


def write_csv(run: LoadedRun, rows: Sequence[Row], path: Path) -> None:
    """Write all columns of all rows, with all digits."""
    # File names need not be Unicode: those that are not are written as the bytes that they are.
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header(run))
        writer.writerows(_cells(run, row, shortly=False) for row in rows)


def _cells(run: LoadedRun, row: Row, shortly: bool) -> list[str]:
    numbers = [""] * len(run.structures or run.classes)
    if row.values is not None:
        digits = (".0f" if run.segments else ".3f") if shortly else ""
        numbers = [format(value, digits) for value in row.values.tolist()]
    name = one_line(row.file) if shortly else str(row.file)
    return [name, row.frame, *([] if run.segments else [row.prediction]), *numbers, row.problem]
