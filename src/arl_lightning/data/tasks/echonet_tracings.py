"""Reads EchoNet-Dynamic's tracings: chords across the left ventricle, whose ends make its outline."""

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.tasks.case import Finding
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


def read_tracings(path: Path, where: str) -> Tracings:
    """Read the table of tracings.

    Args:
        path: `VolumeTracings.csv`.
        where: Where to ask for the set, for messages.

    Raises:
        UserError: If it is no table, or lacks a column.
    """
    chords: dict[str, dict[int, list[Chord]]] = defaultdict(lambda: defaultdict(list))
    faults: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            places = _places(path, next(reader, []), where)
            for fields in reader:
                if not fields:
                    continue
                # A row that ends early belongs to a file that does.
                cells = [fields[place].strip() if place < len(fields) else "" for place in places]
                stem = cells[0].removesuffix(".avi")
                fault = _fault(cells)
                if fault:
                    faults.setdefault(stem, f"line {reader.line_num}, {fault}")
                else:
                    x1, y1, x2, y2 = (float(cell) for cell in cells[1:5])
                    chords[stem][int(cells[5])].append((x1, y1, x2, y2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{one_line(path)}: no table of tracings ({error}); download it again ({where})") from error
    for stem, frames in chords.items():
        for frame, rows in frames.items():
            if len(rows) - 1 < MIN_CHORDS:
                reason = f"frame {frame}: {len(rows)} rows, a long axis and at least {MIN_CHORDS} chords are needed"
                faults.setdefault(stem, reason)
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


def area(outline: Outline) -> float:
    """Return the area of a polygon in pixels, by the shoelace formula."""
    following = outline[1:] + outline[:1]
    return (
        abs(sum(x * after_y - after_x * y for (x, y), (after_x, after_y) in zip(outline, following, strict=True))) / 2
    )


def _places(path: Path, header: Sequence[str], where: str) -> list[int]:
    names = [name.strip().lower() for name in header]
    lacking = [column for column in COLUMNS if column.lower() not in names]
    if lacking:
        found = one_line(", ".join(header)) or "nothing"
        raise UserError(f"{one_line(path)}: has no column '{lacking[0]}', only {found}; download it again ({where})")
    return [names.index(column.lower()) for column in COLUMNS]


def _fault(cells: Sequence[str]) -> str:
    """Say which cell of a row is no number, or return an empty text."""
    for column, cell in zip(COLUMNS[1:5], cells[1:5], strict=True):
        try:
            number = float(cell)
        except ValueError:
            return f"column {column}: '{one_line(cell)}' is no number"
        if not math.isfinite(number):
            return f"column {column}: '{cell}' is no number"
    if not (cells[5].isascii() and cells[5].isdigit()):
        return f"column Frame: '{one_line(cells[5])}' is no index from 0"
    return "" if cells[0] else "column FileName: empty"
