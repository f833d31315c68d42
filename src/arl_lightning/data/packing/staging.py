"""Reads sources, in parallel, into part files: the first half of packing, which a kill interrupts at no loss.

A part is a fixed group of consecutive units, named by a hash of all that it is made from: what the files are, how they
are read and stored. So a part that is whole is never read again, also not where other parts or options have changed.
"""

import dataclasses
import hashlib
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tqdm import tqdm

import arl_lightning
from arl_lightning.data.packing.spec import Job
from arl_lightning.data.packing.spool import PartReport, read_report, write_part
from arl_lightning.data.processes import run_jobs
from arl_lightning.data.sources.source import Source, Unit

PARTS_FOLDER = "parts"

# A part ends at whichever comes first: small enough to be lost to a kill, large enough not to be a file an image.
UNITS_PER_PART = 256
BYTES_PER_PART = 64 * 2**20  # of the files that its units name


@dataclass(frozen=True)
class Part:
    """A group of units of one source.

    Attributes:
        path: Where its samples go.
        number: Its place among all parts.
        source_number: The source's place among those that are packed together.
        job: Reads and encodes it.
        units_file: Holds the pickled units.
        start: Where they begin there.
        num_units: How many they are.
        anatomies: All anatomies, `other` included.
        with_images: False keeps the records alone.
    """

    path: Path
    number: int
    source_number: int
    job: Job
    units_file: Path
    start: int
    num_units: int
    anatomies: list[str]
    with_images: bool

    def units(self) -> list[Unit]:
        """Load the units."""
        with self.units_file.open("rb") as file:
            file.seek(self.start)
            return pickle.load(file)  # noqa: S301 (written by the same run, in a folder of its own)


@dataclass(frozen=True)
class Listing:
    """All parts, and a hash of what they are made from and how."""

    parts: list[Part]
    fingerprint: str

    @property
    def num_units(self) -> int:
        """Units of all parts together."""
        return sum(part.num_units for part in self.parts)


def list_parts(jobs: Sequence[Job], held_out: Sequence[Job], work: Path, anatomies: list[str]) -> Listing:
    """List all units and group them; the list goes to a file, as that of a large corpus would fill memory.

    Args:
        jobs: What is to be packed.
        held_out: What the corpus is compared with, and must not hold.
        work: Folder for the list and for the parts.
        anatomies: All anatomies, `other` included.

    Raises:
        UserError: If a source cannot be listed.
    """
    units_file, folder = work / "units", work / PARTS_FOLDER
    folder.mkdir(exist_ok=True)
    whole = hashlib.sha256(repr((len(jobs), anatomies)).encode())
    parts: list[Part] = []
    with units_file.open("wb") as file, tqdm(desc="list", unit=" units", mininterval=_interval()) as bar:
        for number, job in enumerate(chain(jobs, held_out)):
            with_images = number < len(jobs)
            made = repr((arl_lightning.__version__, _identity(job.source), job.encoding, anatomies, with_images))
            for units, seen in _grouped(job):
                digest = hashlib.sha256(f"{made} {seen}".encode("utf-8", "surrogateescape"))
                whole.update(digest.digest())
                path, start = folder / digest.hexdigest()[:32], file.tell()
                parts.append(Part(path, len(parts), number, job, units_file, start, len(units), anatomies, with_images))
                pickle.dump(units, file)
                bar.update(len(units))
    return Listing(parts, whole.hexdigest())


def _identity(source: Source) -> str:
    """Return what tells a source from another: its class and options, its root however it was spelt."""
    root = source.root if source.root == Path() else source.root.resolve()
    return repr(dataclasses.replace(source, root=root))  # type: ignore[type-var]


def _grouped(job: Job) -> Iterator[tuple[list[Unit], str]]:
    """Yield groups of units, each with a text that changes when a file does."""
    group: list[Unit] = []
    seen: list[tuple[str, str, int, int]] = []
    for unit in job.source.units():
        size, changed = (unit.num_bytes, 0) if unit.num_bytes is not None else _state(unit.path)
        group.append(unit)
        seen.append((unit.name, repr(unit.details), size, changed))
        if len(group) == UNITS_PER_PART or sum(entry[2] for entry in seen) >= BYTES_PER_PART:
            yield group, repr(seen)
            group, seen = [], []
    if group:
        yield group, repr(seen)


def _state(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:  # a phantom has no file; one that a table lists and nobody copied is rejected when it is read
        return 0, 0
    return state.st_size, state.st_mtime_ns


def read_parts(parts: Sequence[Part], processes: int) -> list[PartReport]:
    """Read what is not read yet, under a bar, and return the reports of all parts in their order."""
    reports = {part.number: report for part in parts if (report := read_report(part.path)) is not None}
    missing = [part for part in parts if part.number not in reports]
    start, num_new = time.perf_counter(), 0
    total = sum(part.num_units for part in parts)
    with tqdm(total=total, desc="read", unit=" units", smoothing=0.05, mininterval=_interval(), miniters=1) as bar:
        done = total - sum(part.num_units for part in missing)
        bar.update(done)
        for part, report in run_jobs(_read_part, missing, processes):
            reports[part.number] = report
            num_new += report.num_samples
            bar.set_postfix_str(f"{num_new / (time.perf_counter() - start):,.0f} img/s", refresh=False)
            bar.update(part.num_units)
    return [reports[part.number] for part in parts]


def _read_part(part: Part) -> PartReport:
    job = part.job
    return write_part(part.path, job.source, part.units(), job.encoding, part.anatomies, part.with_images)


def _interval() -> float:
    """Seconds between two lines: a log file needs few."""
    return 0.1 if sys.stderr.isatty() else 10.0
