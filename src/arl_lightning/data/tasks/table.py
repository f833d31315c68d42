"""Reads a user's own table of images, instead of a set's released layout or for a task of one's own.

A csv file with a header row, UTF-8; other columns are ignored, and so is their order:

    image    the file, relative to the root (to the table's folder where no root is given) or absolute
    label    its class; may be left out where there are masks
    patient  optional: who it shows; images of one patient stay in one part of every split
    split    optional, filled for all rows or none: train, val or test
    mask     optional: the mask's file; several, which are united, are separated by `;`
    video    optional: the clip that the image was taken from
    frame    for a clip only: index of the frame to use, from 0
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from arl_lightning.data.media import CLIP_SUFFIXES, IMAGE_SUFFIXES
from arl_lightning.data.sources.layout import UNCLOSED, records, refuse_closed
from arl_lightning.data.tasks.case import Case, Finding, FindingKind, Listing, SplitName
from arl_lightning.data.wording import count, one_line
from arl_lightning.errors import UserError

LABEL = "label"
OPTIONAL = ("patient", "split", "video", "frame")
MAX_DIGITS = 9  # of a frame's index; Python refuses to read thousands
NO_VALUES = ("nan", "none", "null", "<na>")  # what programs write where they have no value
SPLITS: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def table_listing(
    table: Path,
    root: Path,
    classes: tuple[str, ...] | None,
    positive: str | None,
    structures: tuple[str, ...],
    where: str,
    label_column: str = LABEL,
) -> Listing:
    """List the cases that a table names; a row that cannot be used becomes a finding.

    Args:
        table: The csv file.
        root: What its paths are relative to; `Path()` stands for the table's folder.
        classes: Labels that may stand in it, compared without regard to case; None for those that do; empty where only
            masks are used.
        positive: The class that counts as positive, where there are two.
        structures: What the masks show; empty where masks are not used.
        where: Where the set is asked for, for messages.
        label_column: Another name of the column `label`, which is looked for first.

    Raises:
        UserError: If a file or folder is not there or must not be read, the file is no table, lacks a column or has no
            rows, none of its images is there, or `positive` is none of its classes.
    """
    base = root if root != Path() else table.parent
    refuse_closed(base)
    if not base.is_dir():
        raise UserError(f"{one_line(base)}: no such folder; --root names what paths in {one_line(table)} start from")
    header, rows = _read(table, where)
    label = _label_column(table, header, label_column, classes, structures)
    with_masks = bool(structures) and "mask" in header
    reader = _Reader(table, base, label, with_masks, classes)
    if "mask" in header and not structures:
        reader.say("note", "column mask: is not read, for no structures are named that masks show")
    cases = [case for row in rows if (case := reader.case(row))]
    if reader.num_absent == len(rows):
        raise UserError(
            f"{one_line(table)}: none of the files it names ({len(rows):,}) is below {one_line(base)}, such as"
            f" {one_line(rows[0].cells['image'])}; --root names the folder that its paths start from"
        )
    reader.check_whole_columns(header, rows)
    found = classes
    if found is None:  # also from rows that cannot be used: a class's index must not depend on a missing file
        named = {row[label] for row in rows if len(row[label].splitlines()) == 1} if label else set()
        found = tuple(sorted(name for name in named if name.lower() not in NO_VALUES))
    if classes is None and label is not None:
        single: FindingKind = "note" if with_masks else "inconsistent"  # masks can be learnt without classes
        reader.findings += derived_findings(found, table, f"column {label}: ", single)
    check_positive(table, found, positive)
    cases.sort(key=lambda case: case.key)
    return Listing(tuple(cases), found, positive, structures if with_masks else (), tuple(reader.findings), table)


@dataclass(frozen=True)
class _Row:
    line: int  # in the file, from 1
    cells: dict[str, str]  # stripped, by column
    surplus: bool  # it has more fields than there are columns

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


class _Reader:
    """Turns rows into cases and collects what is wrong with them."""

    def __init__(
        self, table: Path, base: Path, label: str | None, with_masks: bool, classes: Sequence[str] | None
    ) -> None:
        self.table, self.base = table, base
        self.label, self.with_masks = label, with_masks
        self.classes = None if classes is None else {name.casefold(): name for name in classes}
        self.findings: list[Finding] = []
        self.num_absent = 0
        self._lines: dict[str, int] = {}  # key -> the line that named it first

    def say(self, kind: FindingKind, reason: str, path: Path | None = None, whole: bool = False) -> None:
        """Add a finding, by default about the table itself: about a row that is left out, or about it as a whole."""
        self.findings.append(Finding(path or self.table, kind, reason, whole))

    def case(self, row: _Row) -> Case | None:
        """Return a row's case, None where it cannot be used."""
        before = len(self.findings)
        self._check_cells(row)
        if len(self.findings) > before:
            return None
        path = self._path(row["image"])
        is_clip = path.suffix.lower() in CLIP_SUFFIXES
        frame = int(row["frame"]) if is_clip else None
        key = self._key(path) + (f"#{frame}" if is_clip else "")
        masks = tuple(self._path(name.strip()) for name in row["mask"].split(";") if name.strip())
        self._check_files(row, path, masks if self.with_masks else ())
        if key in self._lines:
            self._say_cell(row, "image", f"{key} stands in line {self._lines[key]} too; delete one of them")
        self._lines.setdefault(key, row.line)
        if len(self.findings) > before:
            return None
        return Case(
            key,
            path,
            label=self._class(row[self.label]) if self.label else None,
            patient=row["patient"] or None,
            split=SPLITS[row["split"].lower()] if row["split"] else None,
            video=row["video"] or (self._key(path) if is_clip else None),
            frame=frame,
            masks=masks if self.with_masks else (),
        )

    def check_whole_columns(self, header: Sequence[str], rows: Sequence[_Row]) -> None:
        """Find columns that are filled for some rows only."""
        for column in ("split", "patient"):
            empty = [row.line for row in rows if not row[column]]
            if column not in header or not empty or len(empty) == len(rows):
                continue
            reason = f"column {column}: empty in {count(len(empty), 'row')} of {len(rows):,}, first in line {empty[0]}"
            if column == "split":
                self.say("inconsistent", f"{reason}; fill it for every row or for none", whole=True)
            else:
                self.say("note", f"{reason}; each of these images counts as a patient of its own, or as its clip's")

    def _check_cells(self, row: _Row) -> None:
        used = ["image", *OPTIONAL, *([self.label] if self.label else []), *(["mask"] if self.with_masks else [])]
        broken = [column for column in used if len(row[column].splitlines()) > 1]
        if broken:  # the quote swallowed the rows behind: what else is wrong with this one says nothing
            self._say_cell(row, broken[0], f"{UNCLOSED}, or a line break; correct it")
            return
        for column in used:
            if row[column].lower() in NO_VALUES:
                self._say_cell(row, column, f"'{row[column]}' is no value; fill it in, or leave the cell empty")
        for column in ["image", self.label or "mask"]:
            if not row[column]:
                self._say_cell(row, column, "empty; fill it in or delete the row")
        if self.label and row[self.label] and row[self.label].lower() not in NO_VALUES:
            self._check_label(row)
        if row["split"] and row["split"].lower() not in (*SPLITS, *NO_VALUES):
            self._say_cell(row, "split", f"'{row['split']}' is no part; use train, val or test")
        if row.surplus:
            self.say("inconsistent", f"line {row.line}: has more fields than columns; quote a text that holds a comma")
        self._check_frame(row)

    def _check_label(self, row: _Row) -> None:
        name = row[self.label or LABEL]
        if self.classes is None or name.casefold() in self.classes:
            return
        close = get_close_matches(name.casefold(), self.classes, n=1)
        hint = f"did you mean '{self.classes[close[0]]}'?" if close else f"use {', '.join(self.classes.values())}"
        self._say_cell(row, self.label or LABEL, f"'{one_line(name)}' is no class; {hint}")

    def _check_frame(self, row: _Row) -> None:
        frame, is_clip = row["frame"], Path(row["image"]).suffix.lower() in CLIP_SUFFIXES
        if is_clip and not frame:
            self._say_cell(row, "frame", f"empty, though {row['image']} is a clip; say which frame to use, from 0")
        elif is_clip and frame.lower() not in NO_VALUES and not is_index(frame):
            self._say_cell(row, "frame", f"'{one_line(frame)}' is no index; give a whole number from 0")

    def _check_files(self, row: _Row, path: Path, masks: Sequence[Path]) -> None:
        for file, column in [(path, "image"), *((mask, "mask") for mask in masks)]:
            named = f"named in {self.table.name}, line {row.line}, column {column}"
            try:
                is_there = file.is_file()
            except OSError as error:
                self.say("unreadable", f"{named}: {error.strerror}; correct the name, or grant access to it", file)
                self.num_absent += column == "image"
                continue
            if not is_there:
                self.say("missing", f"{named}; copy the file there or correct the row", file)
                self.num_absent += column == "image"
            elif file.suffix.lower() not in IMAGE_SUFFIXES + CLIP_SUFFIXES:
                known = ", ".join(IMAGE_SUFFIXES + CLIP_SUFFIXES)
                self.say("unreadable", f"{named}; its ending is none of {known}; convert it", file)

    def _say_cell(self, row: _Row, column: str, reason: str) -> None:
        self.say("inconsistent", f"line {row.line}, column {column}: {reason}")

    def _class(self, name: str) -> str:
        return name if self.classes is None else self.classes[name.casefold()]

    def _path(self, name: str) -> Path:
        return Path(os.path.normpath(self.base / name.replace("\\", "/")))

    def _key(self, path: Path) -> str:
        base = Path(os.path.normpath(self.base))
        return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


def _read(table: Path, where: str) -> tuple[list[str], list[_Row]]:
    """Return the columns' names in lower case, and the rows that hold anything, with their lines in the file."""
    refuse_closed(table)
    if not table.is_file():
        raise UserError(f"{one_line(table)}: no such table; write a csv file image,label[,patient][,split] ({where})")
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            lines = list(records(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{one_line(table)}: no table of comma-separated UTF-8 text ({error}); save it so") from error
    if not lines:
        raise UserError(f"{one_line(table)}: empty; write a header image,label[,patient][,split] and a row an image")
    header = [name.strip().lower() for name in lines[0][1]]
    twice = [name for place, name in enumerate(header) if name and name in header[:place]]
    if twice:
        raise UserError(f"{one_line(table)}: has two columns '{twice[0]}'; rename one of them")
    rows = []
    for line, fields in lines[1:]:
        cells = {name: field.strip() for name, field in zip(header, fields, strict=False)}
        rows.append(_Row(line, cells, surplus=len(fields) > len(header)))
    if not rows:
        raise UserError(f"{one_line(table)}: has a header but no rows; write a row for each image")
    return header, rows


def is_index(cell: str) -> bool:
    """Tell whether a cell is the index of a frame, from 0."""
    return cell.isascii() and cell.isdigit() and len(cell) <= MAX_DIGITS


def _label_column(
    table: Path, header: Sequence[str], wanted: str, classes: Sequence[str] | None, structures: Sequence[str]
) -> str | None:
    """Return the label's column, None where only masks are used."""
    names = "mask" if classes == () else (f"{wanted}' or '{LABEL}" if wanted != LABEL else LABEL)
    label = None if classes == () else next((name for name in (wanted, LABEL) if name in header), None)
    only_masks = not classes and bool(structures) and "mask" in header
    if "image" not in header or (label is None and not only_masks):
        lacking = "image" if "image" not in header else names
        fix = "it needs image,label[,patient][,split][,mask] with commas between"
        if lacking != "image" and "mask" in header and not structures:
            fix += ", or name the structures that its masks show"
        raise UserError(f"{one_line(table)}: has no column '{lacking}', only {one_line(', '.join(header))}; {fix}")
    return label


def derived_findings(
    classes: Sequence[str], source: Path, prefix: str = "", single: FindingKind = "inconsistent"
) -> list[Finding]:
    """Find classes that the files themselves name in two spellings, or a single one."""
    spellings: dict[str, str] = {}
    findings = []
    for name in classes:
        other = spellings.setdefault(name.casefold(), name)
        if other != name:
            reason = f"{prefix}'{one_line(other)}' and '{one_line(name)}' differ in case only; use one of them"
            findings.append(Finding(source, "inconsistent", reason, whole=True))
    if len(spellings) == 1:
        reason = f"{prefix}'{one_line(classes[0])}' is the only class; at least two are needed"
        findings.append(Finding(source, single, reason, whole=True))
    return findings


def check_positive(source: Path, classes: Sequence[str], positive: str | None) -> None:
    """See that the positive class is one of two.

    Raises:
        UserError: If it is none, or there are not two.
    """
    if positive is not None and (positive not in classes or len(classes) != 2):
        found = one_line(", ".join(classes)) or "no class"
        fix = "name one of them" if len(classes) == 2 else "leave it out, it is for two classes"
        raise UserError(f"positive '{positive}': {one_line(source)} has {found}; {fix}")
