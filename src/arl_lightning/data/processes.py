"""Runs many small jobs in several processes, or in this one, and hands their results back as they end."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TypeVar

import cv2

from arl_lightning.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

IN_FLIGHT = 4  # jobs that wait for each process


def run_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result, in the order in which they end.

    Args:
        function: A module's function; its jobs and results are pickled.
        jobs: Small descriptions of what to do.
        processes: How many work at once; 1 works here.

    Raises:
        UserError: If a process was killed.
    """
    if processes == 1 or len(jobs) <= 1:
        yield from ((job, function(job)) for job in jobs)
        return
    # Not forked: libraries that have started threads here must not find themselves in a copy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), context, _start) as pool:
        try:
            yield from _in_order_of_ending(pool, function, jobs, IN_FLIGHT * processes)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for want of memory; run the same command again, it goes on where"
                " it stopped, if need be with fewer --processes"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _in_order_of_ending(
    pool: ProcessPoolExecutor, function: Callable[[Job], Result], jobs: Sequence[Job], in_flight: int
) -> Iterator[tuple[Job, Result]]:
    waiting = iter(jobs)
    running: dict[Future[Result], Job] = {}
    while True:
        for job in waiting:
            running[pool.submit(function, job)] = job
            if len(running) >= in_flight:
                break
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()


def _start() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent ends, however that was killed: an orphan would go on writing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))
