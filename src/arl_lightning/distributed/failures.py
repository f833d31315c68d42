"""How a rank among several tells of its end: once where all fail alike, with its host where it fails alone.

Needs no torch.
"""

import atexit
import os
import re
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from arl_lightning.distributed import slurm
from arl_lightning.errors import UserError

if TYPE_CHECKING:
    from arl_lightning.distributed.watchdog import Watchdog

FAILED = 1
MISTAKE = 2
FIRST_SPEAKS_SECONDS = 3.0  # srun ends the others once the first rank has spoken and ended
WATCHDOG_ENDS_SECONDS = 30.0  # at most

# What gloo, NCCL and the store say when another process is gone or silent.
PEER = re.compile(
    r"connection (was )?(closed|reset|refused)|closed by (peer|remote)|broken pipe|timed out|socket|\bNCCL\b|DistStore",
    re.IGNORECASE,
)

_watchdog: "Watchdog | None" = None
_status: int | None = None


def watch(watchdog: "Watchdog | None") -> None:
    """Make this the watchdog that is asked about other ranks."""
    global _watchdog
    _watchdog = watchdog


def in_words(error: BaseException) -> str:
    """Return an error in one line; a user's mistake has no need of its type."""
    lines = str(error).split("\n")
    if any("Traceback (most recent call last)" in line for line in lines):
        lines = [lines[0], str(error).rstrip().rpartition("\n")[2]]  # of a loader's worker
    said = " ".join(" ".join(lines).split())
    if isinstance(error, UserError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def among_ranks() -> bool:
    """Return whether this process is one of several ranks."""
    return _world_size() > 1


def report(error: BaseException) -> int:
    """Tell of an error that ends this rank, and return its exit status.

    A mistake that all ranks make is told by the first. Where another rank is gone, the first that is left says which.
    Anything else comes with its traceback.
    """
    here = rank()
    if isinstance(error, UserError):
        return _mistake(here, error)
    if _watchdog is not None and _watchdog.ends:
        time.sleep(WATCHDOG_ENDS_SECONDS)
        return FAILED
    if _watchdog is not None and is_a_peers(error):
        verdict = _watchdog.verdict()
        if verdict.missing and here not in verdict.missing:
            if here == verdict.speaker:
                _watchdog.tell(f"{_watchdog.record.doing}: {verdict}")
                _outlast(here)
            else:
                time.sleep(FIRST_SPEAKS_SECONDS)
            return FAILED
    trace = "".join(traceback.format_exception(error))
    marked = "".join(f"{_name(here)}: {line}\n" for line in trace.splitlines())
    write(marked)
    _say(f"{_name(here)}: {in_words(error)}")
    _outlast(here)
    return FAILED


def _mistake(here: int, error: UserError) -> int:
    if here > 0:
        deadline = time.monotonic() + FIRST_SPEAKS_SECONDS
        while time.monotonic() < deadline:
            if _watchdog is not None and _watchdog.failure_of(0) == in_words(error):
                return MISTAKE
            time.sleep(0.2)
    _say(in_words(error) if here == 0 else f"{_name(here)}: {in_words(error)}")
    if error.advice:
        write(f"     {error.advice}\n")
    _outlast(here)
    return MISTAKE


def _outlast(here: int) -> None:
    """Keep the first rank's store, where the others look."""
    if here == 0 and _watchdog is not None:
        time.sleep(FIRST_SPEAKS_SECONDS)


def is_a_peers(error: BaseException) -> bool:
    """Return whether an error only tells that another rank is gone or silent."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and PEER.search(str(error)) is not None)


def _say(line: str) -> None:
    write(f"arl: error: {line}\n")


def write(lines: str) -> None:
    """Write to stderr in one go: other ranks write there too."""
    sys.stderr.write(lines)
    sys.stderr.flush()


def _name(rank: int) -> str:
    return f"rank {rank} ({slurm.host_name()})"


def leave(status: int) -> NoReturn:
    """End a rank and its workers at once: what runs at an interpreter's end may wait for ranks that are gone."""
    from multiprocessing import active_children  # registers what is to run before `_leave_last`

    for child in active_children():
        child.kill()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(status)


def leave_at_exit(status: int) -> None:
    """Let the interpreter end as usual up to its exit functions, then leave.

    Beyond them threads of gloo and of the store that come back to Python would abort the process.
    """
    global _status
    _status = status


@atexit.register  # among the first, hence called after those of others
def _leave_last() -> None:
    if _status is not None:
        leave(_status)


def rank() -> int:
    """Return this process's rank, also before there is a process group."""
    if _watchdog is not None:
        return _watchdog.rank
    if (group := _process_group()) is not None:
        return int(group.get_rank())
    if slurm.in_slurm_step():
        return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def _world_size() -> int:
    if _watchdog is not None:
        return _watchdog.world_size
    if (group := _process_group()) is not None:
        return int(group.get_world_size())
    if "WORLD_SIZE" in os.environ:  # torchrun's and Lightning's
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) if slurm.in_slurm_step() else 1


def _process_group() -> Any:
    """Return torch.distributed if it has begun; Lightning takes WORLD_SIZE out of the environment when it ends."""
    module = sys.modules.get("torch.distributed")
    return module if module is not None and module.is_available() and module.is_initialized() else None
