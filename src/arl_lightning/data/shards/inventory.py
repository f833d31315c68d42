"""The shards of a packed folder, with those of its splits, and a way over all of them in several processes."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from arl_lightning.data.shards.manifest import FILE_NAME, Manifest, ShardInfo
from arl_lightning.errors import UserError

Result = TypeVar("Result")

LOG_SECONDS = 10.0  # between two lines of progress in a log file


@dataclass(frozen=True)
class ListedShard:
    """A shard of a manifest.

    Attributes:
        name: Relative to the packed folder: `shard-000000.tar`, or `val/shard-000000.tar` of a split.
        path: Where it should lie.
        info: What the manifest says of it.
    """

    name: str
    path: Path
    info: ShardInfo


def split_folders(folder: Path) -> list[Path]:
    """Return the folder itself if it has a manifest, else those of its sub-folders that have one: the splits.

    Raises:
        UserError: If there is no manifest.
    """
    splits = sorted(path.parent for path in folder.glob(f"*/{FILE_NAME}"))
    if not (folder / FILE_NAME).is_file() and splits:
        return splits
    Manifest.load(folder)
    return [folder]


def list_shards(folder: Path) -> list[ListedShard]:
    """Return the shards of all splits in packing order.

    Raises:
        UserError: If there is no manifest, or one is not ours.
    """
    return [
        ListedShard((split / info.name).relative_to(folder).as_posix(), split / info.name, info)
        for split in split_folders(folder)
        for info in Manifest.load(split).shards
    ]


def count_processes(processes: int | None) -> int:
    """Return the number of processes that an option asks for, by default one for each core that may be used.

    Raises:
        UserError: If it is below 1.
    """
    if processes is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if processes < 1:
        raise UserError(f"--processes {processes}: must be at least 1")
    return processes


def map_shards(
    function: Callable[[ListedShard], Result], shards: Sequence[ListedShard], processes: int, title: str
) -> Iterator[Result]:
    """Yield a function's result for each shard, in their order, under a bar that counts images.

    Args:
        function: It and its results travel to other processes if there are several.
        shards: What to apply it to.
        processes: How many work at once; 1 works here.
        title: Of the bar.
    """
    interval = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    total = sum(shard.info.num_samples for shard in shards)
    with tqdm(total=total, desc=title, unit=" img", unit_scale=True, smoothing=0, mininterval=interval) as bar:
        for shard, result in zip(shards, _results(function, shards, processes), strict=True):
            bar.update(shard.info.num_samples)
            yield result


def _results(
    function: Callable[[ListedShard], Result], shards: Sequence[ListedShard], processes: int
) -> Iterator[Result]:
    processes = min(processes, len(shards))
    if processes <= 1:
        yield from map(function, shards)
        return
    # Not forked: a copy of this process would hold the locks of its threads for ever.
    executor = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_ignore_interrupt)
    try:
        yield from executor.map(function, shards)
    finally:
        executor.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the parent, which then sends no more shards."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
