"""What every source of images offers: a cheap list of its units of work, and the samples of one unit.

A source is a frozen dataclass: its fields are the root folder and the typed options that a spec or the command line
may set, and it travels to worker processes whole. It lists, it reads, it never writes; `packing/` does the rest.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from arl_lightning.data.shards.sample import Flagged, Rejected, Sample


@dataclass(frozen=True)
class Unit:
    """What one process reads in one go: a file, or the few files that make one clip.

    Attributes:
        name: Unique within the source, stable from run to run; the path relative to the root where there is one file.
        path: The file that progress, rejections and the check of a resumed packing name.
        details: What listing found out and reading needs (a row of a table, frame numbers, a patient); hashable or
            built of plain tuples, lists, dicts, strings and numbers, as its `repr` tells one packing from another.
        num_bytes: Size of what is read, where `path` is not the file itself; for sharing out work evenly.
    """

    name: str
    path: Path
    details: Any = None
    num_bytes: int | None = None


class Source(Protocol):
    """Reads one data set in its released layout.

    The class docstring gives the layout, the citation, the licence terms, where to ask for the set, and its known
    faults. Every class has a field `root`.
    """

    @property
    def root(self) -> Path:
        """The data set's folder, `Path()` where there are no files."""
        ...

    @property
    def name(self) -> str:
        """Name of the data set, the `source` of its samples."""
        ...

    def units(self) -> Iterable[Unit]:
        """List what there is to read, sorted by name, without decoding pixels.

        Raises:
            UserError: If the root is not this data set, a table is missing or malformed, or an option is wrong.
        """
        ...

    def read(self, unit: Unit) -> Iterator[Sample | Rejected | Flagged]:
        """Yield a unit's samples, a `Rejected` for what cannot be read; damage never raises.

        A `Flagged` tells that a person should look at the unit.
        """
        ...
