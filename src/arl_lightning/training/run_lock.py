"""One process at a time trains into a run's folder: two would remove each other's checkpoints."""

import errno
import fcntl
import json
import os
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from arl_lightning.distributed.slurm import host_name, job_id, restart_count
from arl_lightning.errors import UserError

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
LEASE_SECONDS = 120.0  # NFS keeps the lock of a node that is gone for 90 s
ASK_SECONDS = 1.0

_held: dict[Path, TextIO] = {}  # open, and so locked, until the process ends


@dataclass(frozen=True)
class Owner:
    """Who holds a folder.

    Attributes:
        job: Slurm's number of it, if any.
        restarts: How often Slurm has started that job again.
        host: Where it runs.
        pid: Its first rank's process.
    """

    job: str | None
    restarts: int
    host: str
    pid: int

    def __str__(self) -> str:
        job = "" if self.job is None else f"job {self.job}, "
        return f"{job}process {self.pid} on {self.host}"

    def is_former_life_of(self, other: "Owner") -> bool:
        """Return whether Slurm has ended this one before it started the other."""
        return self.job is not None and self.job == other.job and self.restarts < other.restarts


def own(folder: Path, lease_seconds: float = LEASE_SECONDS) -> None:
    """Lock a run's folder until this process ends; to be called by the first rank.

    The kernel lets go of the lock with the process. A node's that is gone goes a while later: another host's is waited
    for, and that of the same job before it was requeued is never in the way. Where the file system has no locks, a
    warning is all.

    Args:
        folder: The run's; made if it is not there.
        lease_seconds: How long a lock of another host, or of this job's former life, is waited for.

    Raises:
        UserError: If another process holds it.
    """
    path = folder.resolve() / LOCK
    if path in _held:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    try:
        _acquire(file, Owner(job_id(), restart_count(), host_name(), os.getpid()), folder, lease_seconds)
    except BaseException:
        file.close()
        raise
    _held[path] = file


def _acquire(file: TextIO, me: Owner, folder: Path, lease_seconds: float) -> None:
    deadline = time.monotonic() + lease_seconds
    while not _lock(file, folder):
        holder = _read(file)
        before = holder is not None and holder.is_former_life_of(me)
        is_over = time.monotonic() > deadline
        if before and is_over:
            warnings.warn(f"{folder}: still locked by {holder}, which Slurm has ended; going on", stacklevel=3)
            break
        if is_over or not (before or (holder is not None and holder.host != me.host)):
            raise UserError(
                f"{folder}: {holder or 'another process'} trains here; wait for its end or choose another --run.folder"
                f" (if it is gone, remove {folder / LOCK})"
            )
        time.sleep(min(ASK_SECONDS, lease_seconds))
    file.seek(0)
    file.truncate()
    json.dump(asdict(me), file)
    file.flush()


def _lock(file: TextIO, folder: Path) -> bool:
    """Return whether nobody else has it now."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which a killed rank's workers would keep
    except OSError as error:
        if error.errno not in NO_LOCKS:
            return False
        warnings.warn(f"{folder}: this file system has no locks; let no other run use this folder", stacklevel=4)
    return True


def _read(file: TextIO) -> Owner | None:
    file.seek(0)
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):  # being written
        return None
