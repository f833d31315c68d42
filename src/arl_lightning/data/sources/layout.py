"""Checks that a folder is the data set it is said to be, and reads the tables in it, with errors that name the fix."""

import csv
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from arl_lightning.data.wording import one_line
from arl_lightning.errors import UserError

UNCLOSED = "a quote that is not closed"


def require(root: Path, entries: Sequence[str], data_set: str, where: str) -> None:
    """See that files or folders of a released layout are there.

    Args:
        root: The data set's folder.
        entries: Paths relative to it, each with the spelling of the release.
        data_set: Its name, for the message.
        where: Where to ask for it, for the message.

    Raises:
        UserError: If the root or an entry is missing, or must not be read.
    """
    refuse_closed(root)
    if not root.is_dir():
        problem = "is no folder" if root.exists() else "no such folder"
        raise UserError(f"{root}: {problem}; --root names the folder of {data_set} ({where})")
    missing = [entry for entry in entries if not (root / entry).exists()]
    if missing:
        raise UserError(
            f"{root / missing[0]}: missing; --root must be the folder of {data_set} as released, which holds"
            f" {', '.join(entries)} ({where})"
        )
    for entry in entries:
        refuse_closed(root / entry)


def refuse_closed(path: Path) -> None:
    """Refuse what this process must not read: a folder that is closed looks empty to a search for files.

    Raises:
        UserError: If the file or folder must not be read, or a folder above it.
    """
    with access_granted():
        needed = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
        if path.exists() and not os.access(path, needed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


@contextmanager
def access_granted() -> Iterator[None]:
    """Say what to do where the system does not let this process read something."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{one_line(error.filename)}: must not be read; grant access to it (chmod)") from error


def read_csv(path: Path, columns: Sequence[str], where: str, delimiter: str = ",") -> list[dict[str, str]]:
    """Read a table with a header row; a column's name is matched without regard to case and outer blanks.

    Args:
        path: The file, UTF-8 with or without a byte-order mark.
        columns: Names that must be there; rows are keyed by these spellings, and by the file's for other columns.
        where: Where to ask for the data set, for the message.
        delimiter: Between two fields.

    Raises:
        UserError: If the file is missing, must not be read, is no such table or lacks a column.
    """
    refuse_closed(path)
    if not path.is_file():
        raise UserError(f"{path}: missing; copy the data set's table there, or download the set again ({where})")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [fields for _, fields in records(file, delimiter)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}: not a table of comma-separated text ({error}); download it again ({where})"
        ) from error
    if not rows:
        raise UserError(f"{path}: empty; download it again ({where})")
    spelling = {column.strip().lower(): column for column in columns}
    header = [spelling.get(name.strip().lower(), name.strip()) for name in rows[0]]
    lacking = [column for column in columns if column not in header]
    if lacking:
        raise UserError(
            f"{path}: has no column '{lacking[0]}', only {', '.join(header)}; is it this data set's table? ({where})"
        )
    return [dict(zip(header, row, strict=False)) for row in rows[1:]]


def records(lines: Iterable[str], delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table that hold anything, each with the line that it begins in, from 1.

    Raises:
        csv.Error: If a quote is not closed, or text stands behind a closed one; names the line that its row begins in.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    first = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield first, fields
            first = reader.line_num + 1
    except csv.Error as error:
        reason = UNCLOSED if "unexpected end of data" in str(error) else error
        raise csv.Error(f"line {first}: {reason}") from error
