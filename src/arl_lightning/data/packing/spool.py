"""Encoded samples on their way to shards: part files of bytes, and an index that says where each sample lies.

A part holds the samples of a fixed group of units. It is written whole by one process and its index is renamed into
place last, so that a part is either complete or absent, whenever its writer was killed.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from arl_lightning.data.media import is_of_machine
from arl_lightning.data.packing.duplicates import DETAIL, perceptual_hashes
from arl_lightning.data.packing.encoding import Encoding
from arl_lightning.data.shards.sample import Flagged, Record, Rejected, Sample
from arl_lightning.data.sources.source import Source, Unit
from arl_lightning.errors import UserError

# One sample in 105 bytes: the index of 5.2 million samples takes 550 MB.
INDEX = np.dtype(
    [
        ("key", "<u8"),  # of source and name
        ("file", "<u4"),  # number of the file that holds its bytes
        ("anatomy", "<u2"),  # number in the packing's list of anatomies
        ("source", "<u2"),  # number of the spec
        ("record_start", "<u8"),
        ("image_start", "<u8"),
        ("record_size", "<u4"),
        ("image_size", "<u4"),
        ("patient", "<u8"),  # of source and patient, 0 where unknown
        ("video", "<u8"),  # of source and video, 0 for a still
        ("coarse", "<u8"),  # perceptual hashes of the image
        ("detail", *DETAIL),
        ("sha", "<u8"),  # beginning of the sha256 of the encoded image
        ("is_png", "?"),
    ]
)


@dataclass(frozen=True)
class PartReport:
    """What became of a part's units."""

    num_samples: int
    num_bytes: int
    rejected: tuple[tuple[str, str], ...]  # path, reason
    flagged: tuple[tuple[str, str], ...] = ()  # likewise


def hash64(*words: str) -> int:
    """Return 64 bits that identify words: among 5 million, two collide with a chance below 1e-6."""
    digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")


def write_part(
    path: Path,
    source: Source,
    units: Iterable[Unit],
    encoding: Encoding,
    anatomies: list[str],
    with_images: bool = True,
) -> PartReport:
    """Read units, encode their samples, and leave `path` with the bytes and `path.npy`, `path.json` beside it.

    Args:
        path: The part's file.
        source: Reads the units.
        units: What belongs to the part.
        encoding: How images are stored.
        anatomies: All anatomies, `other` included.
        with_images: False keeps the records alone: the part then serves for comparison only.
    """
    rows = []
    rejected: list[tuple[str, str]] = []
    flagged: list[tuple[str, str]] = []
    with replacing(path) as file:
        for unit in units:
            for item in _read(source, unit):
                if isinstance(item, Sample):
                    rows.append(_add(item, file, encoding, anatomies, with_images))
                else:
                    (rejected if isinstance(item, Rejected) else flagged).append((str(item.path), item.reason))
        num_bytes = file.tell()
    report = PartReport(len(rows), num_bytes, tuple(rejected), tuple(flagged))
    save_array(path.with_suffix(".npy"), np.array(rows, INDEX))
    save_json(path.with_suffix(".json"), dataclasses.asdict(report))  # last: its presence says that the part is whole
    return report


def _read(source: Source, unit: Unit) -> Iterator[Sample | Rejected | Flagged]:
    """Yield a unit's items; what a reader did not foresee costs the unit, not the packing of millions of others."""
    try:
        yield from source.read(unit)
    except Exception as error:
        if isinstance(error, UserError) or is_of_machine(error):  # the next unit would not fare better
            raise
        yield Rejected(unit.path, f"{type(error).__name__}: {error}"[:200])


def _add(sample: Sample, file: BinaryIO, encoding: Encoding, anatomies: list[str], with_image: bool) -> tuple[Any, ...]:
    image = encoding.prepare(sample.image)
    encoded = encoding.encode(image)
    digest = hashlib.sha256(encoded)
    record = json.dumps(
        record_of(sample, image.shape[0], image.shape[1], digest.hexdigest()), sort_keys=True, separators=(",", ":")
    ).encode()
    start = file.tell()
    file.write(record)
    if with_image:
        file.write(encoded)
    return (
        hash64(sample.source, sample.name),
        0,  # file and source are told by who reads the index
        _number(sample.anatomy, anatomies),
        0,
        start,
        start + len(record),
        len(record),
        len(encoded),
        0 if sample.patient is None else hash64(sample.source, "patient", sample.patient),
        0 if sample.video is None else hash64(sample.source, "video", sample.video),
        *perceptual_hashes(image),
        int.from_bytes(digest.digest()[:8], "big"),
        encoding.image_format == "png",
    )


def _number(anatomy: str, anatomies: list[str]) -> int:
    if anatomy not in anatomies:
        raise UserError(f"anatomy '{anatomy}': not in the vocabulary; give --anatomies with it, or a spec with another")
    return anatomies.index(anatomy)


def record_of(sample: Sample, height: int, width: int, sha256: str) -> Record:
    """Return what is stored beside an image of this size; nothing else of a sample leaves its source."""
    spacing = sample.spacing_mm
    if spacing is not None:  # a smaller picture of the same field of view has larger pixels
        sizes = (spacing[0] * sample.image.shape[0] / height, spacing[1] * sample.image.shape[1] / width)
        spacing = (float(f"{sizes[0]:.4g}"), float(f"{sizes[1]:.4g}"))  # more digits would tell one scan from others
    return Record(
        anatomy=sample.anatomy,
        source=sample.source,
        name=_text(sample.name),
        patient=None if sample.patient is None else _text(sample.patient),
        video=None if sample.video is None else _text(sample.video),
        frame=sample.frame,
        height=height,
        width=width,
        probe=sample.probe,
        spacing_mm=spacing,
        sha256=sha256,
    )


def _text(name: str) -> str:
    """Return a name that is valid Unicode: a file's need not be, and readers of the record would stumble over it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_report(path: Path) -> PartReport | None:
    """Return the report of a part that is whole, None otherwise."""
    report = path.with_suffix(".json")
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
        rejected, flagged = (tuple((each, why) for each, why in content[field]) for field in ("rejected", "flagged"))
        return PartReport(content["num_samples"], content["num_bytes"], rejected, flagged)
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # what a power cut leaves is read again
        return None


def read_index(parts: Sequence[tuple[Path, int, int]]) -> np.ndarray:
    """Return the index of parts, each with its number and that of its source, in their order, without holding it twice.

    Args:
        parts: Path, number and source of each.
    """
    sizes = [np.load(path.with_suffix(".npy"), mmap_mode="r").size for path, _, _ in parts]
    index = np.empty(sum(sizes), INDEX)
    start = 0
    for (path, number, source), size in zip(parts, sizes, strict=True):
        rows = index[start : start + size]
        rows[:] = np.load(path.with_suffix(".npy"))
        rows["file"], rows["source"] = number, source
        start += size
    return index


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file under a temporary name first."""
    with replacing(path) as file:
        np.save(file, array)


def save_json(path: Path, content: object) -> None:
    """Write a .json file under a temporary name first."""
    with replacing(path) as file:
        file.write(json.dumps(content).encode())  # a path on disk need not be valid Unicode: escapes keep its bytes


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file under a temporary name; once it is on the disk, rename it into place."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_record(path: Path, row: np.void) -> Record:
    """Return the record of one sample of a part."""
    with path.open("rb") as file:
        file.seek(int(row["record_start"]))
        return json.loads(file.read(int(row["record_size"])))
