"""Finds where the samples of packed shards lie, as an index that shards can be written from again.

N samples of all shards.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np

from arl_lightning.data.packing.spool import INDEX, hash64
from arl_lightning.data.shards.check import KEY, HashedReader
from arl_lightning.data.shards.inventory import ListedShard, map_shards
from arl_lightning.data.shards.sample import Record
from arl_lightning.data.shards.tars import RECORD_EXTENSION, Member, TarDamageError, members_fault, walk_members
from arl_lightning.errors import UserError

Row = dict[str, int]  # by the index' fields


@dataclass(frozen=True)
class _Found:
    """One shard's rows of the index, and the names that their numbers for anatomy and source stand for."""

    rows: np.ndarray
    anatomies: list[str]
    sources: list[str]


def locate_samples(listed: Sequence[ListedShard], processes: int) -> tuple[np.ndarray, list[str], list[str]]:
    """Return where all samples lie, having compared each shard with its manifest's checksum on the way.

    Returns:
        (N,) of `spool.INDEX` in the order of the shards, without perceptual hashes; the sorted names of its anatomies
        and of its sources, which its numbers stand for.

    Raises:
        UserError: If a shard cannot be read, or is not what its manifest says.
    """
    number_of = {shard.path: number for number, shard in enumerate(listed)}
    starts = np.cumsum([0, *(shard.info.num_samples for shard in listed)])
    index = np.zeros(int(starts[-1]), INDEX)
    anatomies, sources = _Names(), _Names()
    for shard, found in map_shards(_locate, listed, processes, "read"):
        number = number_of[shard.path]
        rows = index[starts[number] : starts[number + 1]]
        rows[:] = found.rows
        rows["file"] = number
        rows["anatomy"] = anatomies.numbers(found.anatomies)[found.rows["anatomy"]]
        rows["source"] = sources.numbers(found.sources)[found.rows["source"]]
    index["anatomy"] = anatomies.ranks()[index["anatomy"]]
    index["source"] = sources.ranks()[index["source"]]
    return index, sorted(anatomies.known), sorted(sources.known)


class _Names:
    """Numbers names in the order in which they come; their ranks do not depend on it."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """Return the numbers of names, new ones for new names."""
        return np.array([self.known.setdefault(name, len(self.known)) for name in names], np.uint16)

    def ranks(self) -> np.ndarray:
        """Return each number's place among the sorted names."""
        return np.argsort(np.argsort(np.array(list(self.known)))).astype(np.uint16)


def _locate(shard: ListedShard) -> _Found:
    fix = f"`arl shards verify {shard.path.parent}` finds all that is wrong"
    anatomies, sources = _Names(), _Names()
    rows = []
    try:
        with shard.path.open("rb") as file:
            reader = HashedReader(file)
            for key, members in groupby(walk_members(reader), key=attrgetter("key")):
                rows.append(_row(key, members, reader, anatomies, sources))
            digest = reader.finish()
    except OSError as error:
        raise UserError(f"{shard.path}: cannot be read ({error.strerror}); {fix}") from error
    except TarDamageError as error:
        raise UserError(f"{shard.path}: {error}; {fix}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shard.path}: a sample does not follow the schema ({error}); {fix}") from error
    if digest != shard.info.sha256 or len(rows) != shard.info.num_samples:
        raise UserError(f"{shard.path}: its sha256 or number of samples is not the manifest's; {fix}")
    return _Found(_table(rows), list(anatomies.known), list(sources.known))


def _row(key: str, members: Iterable[Member], reader: HashedReader, anatomies: _Names, sources: _Names) -> Row:
    """Return a sample's row; its record is read as it passes, its image is passed over."""
    kept: dict[bool, Member] = {}
    extensions: list[str] = []
    content = b""
    for member in members:
        is_record = member.extension == RECORD_EXTENSION
        content = reader.read(member.size) if is_record else content
        kept[is_record] = member
        extensions.append(member.extension)
    fault = members_fault(extensions) if KEY.fullmatch(key) else "its key is not 16 hexadecimal digits"
    if fault:
        raise TarDamageError(f"sample {key}: {fault}")
    record: Record = json.loads(content)
    source, patient, video = record["source"], record["patient"], record["video"]
    return {
        "key": int(key, 16),
        "anatomy": int(anatomies.numbers([record["anatomy"]])[0]),
        "source": int(sources.numbers([source])[0]),
        "record_start": kept[True].offset,
        "record_size": kept[True].size,
        "image_start": kept[False].offset,
        "image_size": kept[False].size,
        "patient": 0 if patient is None else hash64(source, "patient", patient),
        "video": 0 if video is None else hash64(source, "video", video),
        "is_png": kept[False].extension == "png",
    }


def _table(rows: Sequence[Row]) -> np.ndarray:
    table = np.zeros(len(rows), INDEX)
    for field in rows[0] if rows else ():
        table[field] = [row[field] for row in rows]
    return table
