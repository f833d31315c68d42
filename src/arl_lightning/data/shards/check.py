"""Checks one shard against the manifest, its records and its images, in one pass and with one sample in memory."""

import hashlib
import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter
from types import UnionType
from typing import Any, BinaryIO, get_args, get_origin, get_type_hints

import cv2
import numpy as np

from arl_lightning.data.shards.inventory import ListedShard
from arl_lightning.data.shards.manifest import ShardInfo
from arl_lightning.data.shards.sample import Record
from arl_lightning.data.shards.tars import RECORD_EXTENSION, TarDamageError, members_fault, walk_members

MAX_FAULTS = 20  # told of one shard; all are counted
SKIPPED_AT_ONCE = 1 << 20  # bytes

KEY = re.compile("[0-9a-f]{16}")
SIGNATURES = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
FIELDS = get_type_hints(Record)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a shard, or with one of its samples."""

    shard: str
    reason: str
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.shard}: " + (f"sample {self.key}: " if self.key else "") + self.reason


@dataclass
class ShardCheck:
    """What was found in one shard.

    Attributes:
        name: Of the shard.
        faults: The first `MAX_FAULTS`.
        num_faults: All of them.
        num_bytes: Of the file.
        sha256: Of the file, empty where it could not be read.
        keys: The samples' keys as numbers.
    """

    name: str
    faults: list[Fault] = field(default_factory=list)
    num_faults: int = 0
    num_bytes: int = 0
    sha256: str = ""
    keys: array = field(default_factory=partial(array, "Q"))

    def add(self, reason: str, key: str | None = None) -> None:
        """Count a fault, and keep it if there is room."""
        self.num_faults += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(self.name, reason, key))


class HashedReader:
    """Reads a file from its start on, hashing all that it passes, skipped bytes too."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._place = 0

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, fewer at the end of the file."""
        content = self._file.read(size)
        self._digest.update(content)
        self._place += len(content)
        return content

    def seek(self, offset: int, /) -> int:
        """Read on to a place, or to the end of the file."""
        while self._place < offset and self.read(min(offset - self._place, SKIPPED_AT_ONCE)):
            pass
        return self._place

    def finish(self) -> str:
        """Read to the end and return the sha256 of the whole file."""
        while self.read(SKIPPED_AT_ONCE):
            pass
        return self._digest.hexdigest()


def check_shard(shard: ListedShard, anatomies: frozenset[str], decode: bool) -> ShardCheck:
    """Compare a shard with the manifest, and each of its samples with its record; faults never raise.

    Args:
        shard: Where it lies and what the manifest says of it.
        anatomies: The known ones.
        decode: Decode every image; without, its bytes are compared with the record's sha256 alone.
    """
    cv2.setNumThreads(0)  # the shards share out the cores
    check = ShardCheck(shard.name)
    try:
        check.num_bytes = shard.path.stat().st_size
        with shard.path.open("rb") as file:
            _check_content(check, file, shard.info, anatomies, decode)
    except FileNotFoundError:
        check.add("missing")
    except OSError as error:
        check.add(f"cannot be read ({error.strerror})")
    return check


def _check_content(check: ShardCheck, file: BinaryIO, info: ShardInfo, anatomies: frozenset[str], decode: bool) -> None:
    reader = HashedReader(file)
    counts: dict[str, Counter[str]] = {"anatomies": Counter(), "sources": Counter()}
    if check.num_bytes != info.num_bytes:
        cut = " (truncated)" if check.num_bytes < info.num_bytes else ""
        check.add(f"{check.num_bytes:,} bytes where the manifest says {info.num_bytes:,}{cut}")
    try:
        _check_samples(check, reader, counts, anatomies, decode)
        _compare_counts(check, info, counts)
    except TarDamageError as error:
        check.add(f"not a whole tar: {error}")
    check.sha256 = reader.finish()
    if check.num_bytes == info.num_bytes and check.sha256 != info.sha256:
        check.add(f"sha256 {check.sha256[:12]}... where the manifest says {info.sha256[:12]}...")


def _check_samples(
    check: ShardCheck, reader: HashedReader, counts: dict[str, Counter[str]], anatomies: frozenset[str], decode: bool
) -> None:
    for key, members in groupby(walk_members(reader), key=attrgetter("key")):
        contents: list[tuple[str, bytes]] = []
        for member in members:
            if member.offset + member.size > check.num_bytes:  # before its bytes are asked for: it may claim many
                raise TarDamageError(f"ends within sample {key}")
            contents.append((member.extension, reader.read(member.size)))
        record = _check_sample(check, key, contents, anatomies, decode)
        counts["anatomies"][str(record.get("anatomy"))] += 1
        counts["sources"][str(record.get("source"))] += 1


def _check_sample(
    check: ShardCheck, key: str, contents: Sequence[tuple[str, bytes]], anatomies: frozenset[str], decode: bool
) -> dict[str, Any]:
    """Check one sample and return its record, empty if it has none that can be read."""
    if KEY.fullmatch(key):
        check.keys.append(int(key, 16))
    else:
        check.add("its key is not 16 hexadecimal digits", key)
    if fault := members_fault([extension for extension, _ in contents]):
        check.add(fault, key)
        return {}
    (extension, encoded), (_, stored) = sorted(contents, key=lambda content: content[0] == RECORD_EXTENSION)
    record = _parse_record(stored)
    fault = record_fault(record, anatomies)
    if fault is None:
        fault = image_fault(extension, encoded, record, decode)
    if fault:
        check.add(fault, key)
    return record


def _parse_record(stored: bytes) -> dict[str, Any]:
    try:
        record = json.loads(stored)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def record_fault(record: dict[str, Any], anatomies: frozenset[str]) -> str | None:
    """Return why a record does not follow the schema (`sample.Record`), None if it does."""
    if not record:
        return "its record is no JSON object"
    if missing := sorted(FIELDS.keys() - record.keys()):
        return f"its record has no '{missing[0]}'"
    if strange := sorted(record.keys() - FIELDS.keys()):
        return f"its record has '{strange[0]}', which the schema does not know"
    for name, kind in FIELDS.items():
        if not _fits(record[name], kind):
            return f"its record's {name} is {json.dumps(record[name])[:60]}"
    if record["anatomy"] not in anatomies:
        return f"its record's anatomy '{record['anatomy']}' is not in the vocabulary"
    return None


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:  # JSON's list
        return (
            isinstance(value, list)
            and len(value) == len(get_args(kind))
            and all(type(each) in (int, float) and math.isfinite(each) and each > 0 for each in value)
        )
    return type(value) is kind and (kind is not int or value >= 0)


def image_fault(extension: str, encoded: bytes, record: dict[str, Any], decode: bool) -> str | None:
    """Return how an image differs from its record, or why it cannot be decoded; None if all is well."""
    if hashlib.sha256(encoded).hexdigest() != record["sha256"]:
        return "its image's sha256 differs from its record's"
    if not encoded.startswith(SIGNATURES[extension]):
        return f"its image is no {extension}"
    if not decode:
        return None
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        return "its image does not decode"
    if image.dtype != np.uint8 or (image.ndim == 3 and image.shape[2] != 3):
        return f"its image is {image.dtype} of shape {image.shape}, neither 8-bit grey nor RGB"
    if image.shape[:2] != (record["height"], record["width"]):
        height, width = image.shape[:2]
        return f"its image is {height} x {width} where its record says {record['height']} x {record['width']}"
    return None


def _compare_counts(check: ShardCheck, info: ShardInfo, counts: dict[str, Counter[str]]) -> None:
    num_samples = counts["anatomies"].total()
    if num_samples != info.num_samples:
        check.add(f"{num_samples:,} samples where the manifest says {info.num_samples:,}")
    for name, listed in (("anatomies", info.anatomies), ("sources", info.sources)):
        # Manifests from before sources were counted list none.
        if listed and counts[name] != Counter(listed):
            wrong = min(each for each in counts[name] | Counter(listed) if counts[name][each] != listed.get(each, 0))
            check.add(f"{counts[name][wrong]:,} samples of {wrong} where the manifest says {listed.get(wrong, 0):,}")
