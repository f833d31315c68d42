"""The shards of a packed folder, with those of its splits, and a way over all of them in several processes."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from arl_lightning.data.processes import run_jobs, usable_cores
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

    @property
    def split(self) -> str:
        """Its split, empty where there are none."""
        return self.name.rpartition("/")[0]


def split_folders(folder: Path) -> list[Path]:
    """Return the folder itself if it has a manifest, else those of its sub-folders that have one: the splits.

    Raises:
        UserError: If there is no manifest.
    """
    try:
        splits = sorted(path.parent for path in folder.glob(f"*/{FILE_NAME}"))
        if not (folder / FILE_NAME).is_file() and splits:
            return splits
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); see to its permissions") from error
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
    if processes is not None and processes < 1:
        raise UserError(f"--processes {processes}: must be at least 1")
    return usable_cores() if processes is None else processes


def map_shards(
    function: Callable[[ListedShard], Result], shards: Sequence[ListedShard], processes: int, title: str
) -> Iterator[tuple[ListedShard, Result]]:
    """Yield each shard with a function's result for it, as they end, under a bar that counts images.

    Args:
        function: It and its results travel to other processes if there are several.
        shards: What to apply it to.
        processes: How many work at once; 1 works here.
        title: Of the bar.
    """
    interval = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    total = sum(shard.info.num_samples for shard in shards)
    with tqdm(total=total, desc=title, unit=" img", unit_scale=True, smoothing=0, mininterval=interval) as bar:
        for shard, result in run_jobs(function, shards, processes):
            bar.update(shard.info.num_samples)
            yield shard, result
