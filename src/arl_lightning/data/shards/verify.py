"""Finds what is wrong with packed shards, by name: the function behind `arl shards verify`."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arl_lightning.arguments import positional
from arl_lightning.data.anatomy import ANATOMIES, OTHER, AnatomyVocabulary
from arl_lightning.data.shards.check import MAX_FAULTS, Fault, ShardCheck, check_shard
from arl_lightning.data.shards.inventory import ListedShard, count_processes, list_shards, map_shards, split_folders
from arl_lightning.data.wording import count, one_line
from arl_lightning.errors import UserError

NUM_SHOWN = 10  # shards in the one line at the end

_NO_KEYS = np.empty(0, np.uint64)


@dataclass(frozen=True)
class VerifyReport:
    """What was found to be right; as a string, what the command line prints.

    Attributes:
        shards: The folder.
        num_shards: Shards that were read.
        num_samples: Samples in them.
        num_bytes: Their size.
        decoded: Whether every image was decoded.
        seconds: The time it took.
    """

    shards: Path
    num_shards: int
    num_samples: int
    num_bytes: int
    decoded: bool
    seconds: float

    def __str__(self) -> str:
        seconds = max(self.seconds, 1e-9)
        images = "every image decodes" if self.decoded else "images were not decoded"
        return "\n".join(
            [
                f"{one_line(self.shards)}: {self.num_samples:,} images in {self.num_shards:,} shards are as packed",
                f"  checked    checksums, sizes, counts, records, keys; {images}",
                f"  took       {self.seconds:,.1f} s for {self.num_bytes / 1e6:,.1f} MB"
                f" ({self.num_samples / seconds:,.0f} img/s, {self.num_bytes / 1e6 / seconds:,.1f} MB/s)",
            ]
        )


@positional("shards")
def verify(
    shards: Path, processes: int | None = None, decode: bool = True, anatomies: list[str] | None = None
) -> VerifyReport:
    """Check every shard, record and image of a packed folder, of all its splits if it has some; nothing is changed.

    Faults are printed to stderr as they are found, at most 20 of each shard.

    Args:
        shards: Folder with the shards and their manifest, or with a folder for each split.
        processes: How many work at once; by default one for each core.
        decode: Decode every image; without, checksums, records and counts alone are checked, several times faster.
        anatomies: The vocabulary that the shards were packed with, if it was not ARL's own.

    Returns:
        The report, for printing, when all is well.

    Raises:
        UserError: If anything is wrong, with the names of the shards and samples.
    """
    start = time.perf_counter()
    num_processes = count_processes(processes)
    known = frozenset([*AnatomyVocabulary(anatomies or ANATOMIES).names, OTHER])
    listed = list_shards(shards)
    faults = _Faults()
    faults.add(_stray(shards, listed))
    names = {shard.info.sha256: shard.name for shard in listed}
    checks = []
    for _, check in map_shards(partial(check_shard, anatomies=known, decode=decode), listed, num_processes, "verify"):
        faults.add(check.faults, check.num_faults)
        if check.num_faults and names.get(check.sha256, check.name) != check.name:  # swapped, or copied over
            faults.add([Fault(check.name, f"holds what the manifest lists as {names[check.sha256]}")])
        checks.append(check)
    faults.add(*_duplicates(sorted(checks, key=attrgetter("name"))))
    if faults.count:
        raise UserError(faults.summary(shards))
    num_samples, num_bytes = sum(len(each.keys) for each in checks), sum(each.num_bytes for each in checks)
    return VerifyReport(shards, len(checks), num_samples, num_bytes, decode, time.perf_counter() - start)


class _Faults:
    """Collects faults and prints each as it comes, above the progress bar."""

    def __init__(self) -> None:
        self.count = 0
        self.first: dict[str, Fault] = {}  # of each shard

    def add(self, faults: Sequence[Fault], total: int = 0) -> None:
        """Take faults of one kind; `total` is their true number where these are only the first."""
        for fault in faults:
            self.first.setdefault(fault.shard, fault)
            tqdm.write(one_line(fault), file=sys.stderr)
        if total > len(faults):
            tqdm.write(f"{one_line(faults[-1].shard)}: and {total - len(faults):,} more", file=sys.stderr)
        self.count += max(total, len(faults))

    def summary(self, shards: Path) -> str:
        """Say in one line what is wrong and what to do."""
        shown = [str(self.first[shard]) for shard in sorted(self.first)[:NUM_SHOWN]]
        more = len(self.first) - len(shown)
        return (
            f"{shards}: {count(self.count, 'fault')} in {count(len(self.first), 'shard')}: {'; '.join(shown)}"
            f"{f'; and {more:,} more shards' if more else ''}; copy these shards again, or pack again"
        )


def _stray(folder: Path, listed: Sequence[ListedShard]) -> list[Fault]:
    counts = Counter(shard.name for shard in listed)
    found = {path.relative_to(folder).as_posix() for split in split_folders(folder) for path in split.glob("*.tar")}
    return [
        *(
            Fault(name, "not in the manifest; move it away, or bring its manifest")
            for name in sorted(found - set(counts))
        ),
        *(Fault(name, "listed twice in the manifest") for name, count in counts.items() if count > 1),
    ]


def _duplicates(checks: Sequence[ShardCheck]) -> tuple[list[Fault], int]:
    """Name the first keys that stand twice, with both shards, and count all; takes 32 bytes a sample."""
    keys = np.concatenate([np.frombuffer(check.keys, np.uint64) for check in checks if check.keys] or [_NO_KEYS])
    ends = np.cumsum([len(check.keys) for check in checks])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    places = np.flatnonzero(keys[1:] == keys[:-1])
    faults = []
    for place in places[:MAX_FAULTS]:
        first, second = (checks[index].name for index in np.searchsorted(ends, order[place : place + 2], side="right"))
        faults.append(Fault(second, f"its key stands in {first} too", f"{int(keys[place]):016x}"))
    return faults, len(places)
