"""Runs a function over shards in several processes, under one progress bar."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from tqdm import tqdm

from arl_lightning.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

LOG_SECONDS = 10.0  # between two lines of progress in a log file


def count_workers(workers: int) -> int:
    """Return the number of processes that an option asks for; 0 means one for each core that this process may use.

    Raises:
        UserError: If it is negative.
    """
    if workers < 0:
        raise UserError(f"--workers {workers}: must be at least 0 (one process a core)")
    return workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def map_shards(
    function: Callable[[Task], Result], tasks: Sequence[Task], num_samples: Sequence[int], workers: int, title: str
) -> Iterator[Result]:
    """Yield the results in the tasks' order, whatever the number of processes.

    Args:
        function: Applied to each task; it and its tasks and results travel to other processes if `workers` is above 1.
        tasks: One for each shard.
        num_samples: Of each shard; the bar counts them.
        workers: Processes; 1 stays in this one.
        title: Of the bar.
    """
    interval = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    total = sum(num_samples)
    with tqdm(total=total, desc=title, unit=" img", unit_scale=True, smoothing=0, mininterval=interval) as bar:
        for result, count in zip(_results(function, tasks, workers), num_samples, strict=True):
            bar.update(count)
            yield result


def _results(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(function, tasks)
        return
    # Not forked: a copy of this process would hold the locks of its threads for ever.
    executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_ignore_interrupt)
    try:
        yield from executor.map(function, tasks)
    finally:
        executor.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the parent, which then sends no more tasks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
