"""Reads EchoNet-Dynamic's tracings: chords across the left ventricle, whose ends make its outline."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arl_lightning.data.sources.layout import UNCLOSED, access_granted, records
from arl_lightning.data.tasks.case import Finding
from arl_lightning.data.tasks.echonet_geometry import fault_of_rows
from arl_lightning.data.tasks.table import is_index
from arl_lightning.data.wording import one_line
from arl_lightning.errors import UserError

COLUMNS = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")
MIN_CHORDS = 5  # fewer make no ventricle; the release has 20 or more, as a rule

Outline = tuple[tuple[float, float], ...]
Chord = tuple[float, float, float, float]  # x and y of the one end, then of the other


@dataclass(frozen=True)
class Tracings:
    """What the table holds.

    Attributes:
        outlines: By video (without `.avi`) and frame.
        damaged: Videos of which a row cannot be used; each has a finding.
        findings: What is wrong with the table, one a video.
    """

    outlines: dict[str, dict[int, Outline]]
    damaged: set[str]
    findings: list[Finding]


def read_tracings(path: Path, where: str, sizes: Mapping[str, tuple[int, int]]) -> Tracings:
    """Read the table of tracings.

    Args:
        path: `VolumeTracings.csv`.
        where: Where to ask for the set, for messages.
        sizes: Height and width of the pictures of each video that is used; tracings of others are not looked into.

    Raises:
        UserError: If it must not be read, is no table, or lacks a column.
    """
    chords: dict[str, dict[int, list[Chord]]] = defaultdict(lambda: defaultdict(list))
    faults: dict[str, str] = {}
    try:
        with access_granted(), path.open(encoding="utf-8-sig", newline="") as file:
            for line, cells in _cells(path, records(file), where):
                stem = cells[0].removesuffix(".avi")
                fault = _fault(cells)
                if fault:
                    faults.setdefault(stem, f"line {line}, {fault}")
                else:
                    x1, y1, x2, y2 = (float(cell) for cell in cells[1:5])
                    chords[stem][int(cells[5])].append((x1, y1, x2, y2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{one_line(path)}: no table of tracings ({error}); download it again ({where})") from error
    for stem, frames in chords.items():
        for frame, rows in frames.items():
            fault = _fault_of_frame(rows, sizes[stem]) if stem in sizes and stem not in faults else ""
            if fault:
                faults[stem] = f"frame {frame}: {fault}"
    outlines = {stem: {frame: outline_of(rows) for frame, rows in frames.items()} for stem, frames in chords.items()}
    findings = [
        Finding(path, "inconsistent", f"{one_line(stem)}.avi, {fault}; download the table again")
        for stem, fault in faults.items()
    ]
    return Tracings(outlines, set(faults), findings)


def outline_of(rows: Sequence[Chord]) -> Outline:
    """Return the closed outline of a frame's rows: the chords' first ends in order, then their second ends back.

    The first row is the long axis and no part of it.
    """
    first = [(x1, y1) for x1, y1, _, _ in rows[1:]]
    second = [(x2, y2) for _, _, x2, y2 in rows[1:]]
    return tuple(first + second[::-1])


def _cells(path: Path, rows: Iterator[tuple[int, list[str]]], where: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row's line and its cells in the order of `COLUMNS`; a row that ends early has empty ones."""
    _, header = next(rows, (1, []))
    names = [name.strip().lower() for name in header]
    lacking = [column for column in COLUMNS if column.lower() not in names]
    if lacking:
        found = one_line(", ".join(header)) or "nothing"
        raise UserError(f"{one_line(path)}: has no column '{lacking[0]}', only {found}; download it again ({where})")
    places = [names.index(column.lower()) for column in COLUMNS]
    for line, fields in rows:
        cells = [fields[place].strip() if place < len(fields) else "" for place in places]
        if any("\n" in cell for cell in cells):  # the quote swallowed rows of other videos
            raise csv.Error(f"line {line}: {UNCLOSED}")
        yield line, cells


def _fault_of_frame(rows: Sequence[Chord], size: tuple[int, int]) -> str:
    if len(rows) - 1 < MIN_CHORDS:
        return f"{len(rows)} rows, a long axis and at least {MIN_CHORDS} chords are needed"
    return fault_of_rows(np.array(rows), size)


def _fault(cells: Sequence[str]) -> str:
    """Say which cell of a row is no number, or return an empty text."""
    for column, cell in zip(COLUMNS[1:5], cells[1:5], strict=True):
        try:
            number = float(cell)
        except ValueError:
            return f"column {column}: '{one_line(cell)}' is no number"
        if not math.isfinite(number):
            return f"column {column}: '{cell}' is no number"
    if not is_index(cells[5]):
        return f"column Frame: '{one_line(cells[5][:20])}' is no index from 0"
    return "" if cells[0] else "column FileName: empty"
