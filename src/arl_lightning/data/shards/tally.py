"""Adds up what shards hold, from their records alone."""

import hashlib
import json
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial

from arl_lightning.data.shards.check import record_fault
from arl_lightning.data.shards.inventory import ListedShard
from arl_lightning.data.shards.sample import Record
from arl_lightning.data.shards.tars import HEADER_BUFFER, RECORD_EXTENSION, TarDamageError, walk_members
from arl_lightning.errors import UserError


def _ids() -> dict[str, array]:
    return defaultdict(partial(array, "Q"))


@dataclass
class Tally:
    """What one shard, or several, hold.

    Attributes:
        images: Of each source and anatomy.
        sizes: Images of each height and width.
        probes: Images of each kind of probe, `unknown` included.
        patients: Of each source, a number for the patient of every image that names one.
        videos: Of each source, a number for the clip of every image that is from one.
        num_spaced: Images with a known pixel spacing.
        image_bytes: Encoded images.
        record_bytes: Records.
    """

    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    probes: Counter[str] = field(default_factory=Counter)
    patients: dict[str, array] = field(default_factory=_ids)
    videos: dict[str, array] = field(default_factory=_ids)
    num_spaced: int = 0
    image_bytes: int = 0
    record_bytes: int = 0

    def add(self, record: Record) -> None:
        """Count an image by its record."""
        source = record["source"]
        self.images[source, record["anatomy"]] += 1
        self.sizes[record["height"], record["width"]] += 1
        self.probes[record["probe"] or "unknown"] += 1
        self.num_spaced += record["spacing_mm"] is not None
        if record["patient"] is not None:
            self.patients[source].append(_number(record["patient"]))
        if record["video"] is not None:
            self.videos[source].append(_number(record["video"]))

    def update(self, other: "Tally") -> None:
        """Add what another shard holds."""
        self.images.update(other.images)
        self.sizes.update(other.sizes)
        self.probes.update(other.probes)
        for mine, theirs in ((self.patients, other.patients), (self.videos, other.videos)):
            for source, numbers in theirs.items():
                mine[source].extend(numbers)
        self.num_spaced += other.num_spaced
        self.image_bytes += other.image_bytes
        self.record_bytes += other.record_bytes


def count_shard(shard: ListedShard) -> Tally:
    """Count what a shard holds, from its records alone.

    Raises:
        UserError: If it cannot be read or a record does not follow the schema.
    """
    tally = Tally()
    path = shard.path
    fix = f"`arl shards verify {path.parent}` finds all that is wrong"
    try:
        with path.open("rb", buffering=HEADER_BUFFER) as file:
            for member in walk_members(file):
                if member.extension == RECORD_EXTENSION:
                    record = json.loads(file.read(member.size))
                    # Any anatomy counts: which are known is the packer's matter.
                    if fault := record_fault(record, frozenset([record["anatomy"]])):
                        raise ValueError(fault)
                    tally.add(record)
                    tally.record_bytes += member.size
                else:
                    tally.image_bytes += member.size
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {fix}") from error
    except TarDamageError as error:
        raise UserError(f"{path}: {error}; {fix}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: sample {member.key}: its record does not follow the schema; {fix}") from error
    return tally


def _number(name: str) -> int:
    """Return 64 bits for a name: among a million, two coincide with a chance below 1e-7."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")
