"""Writes a sharded checkpoint while training goes on: all ranks end with the same outcome."""

import io
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult

from arl_lightning.distributed.collectives import is_first_rank
from arl_lightning.distributed.shard_index import META
from arl_lightning.distributed.sharded_checkpoint import split
from arl_lightning.errors import UserError

TEMPORARY = ".tmp"  # what the name of a half-written checkpoint ends with
FORMER = f".former{TEMPORARY}"  # and that of a whole one, while another takes its place
WHOLE = "is whole, but"  # how the reason begins where only what follows the writing has failed


class SaveError(UserError):
    """A checkpoint could not be written.

    Attributes:
        reason: Why, in the system's words.
        is_whole: Whether it is on disk nevertheless.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.is_whole = reason.startswith(WHOLE)
        super().__init__(f"{path}: {reason}" if self.is_whole else f"{path}: cannot be written ({reason})")
        self.reason = reason


class Saving:
    """A save in the background.

    Args:
        path: The checkpoint.
        future: Done once it is whole on disk under its name, or has failed on every rank.
    """

    def __init__(self, path: Path, future: Future[Any]) -> None:
        self.path = path
        self._future = future

    def done(self) -> bool:
        """Return whether it has ended, well or not; ranks may learn of it at different times."""
        return self._future.done()

    def linger(self, seconds: float | None = None) -> None:
        """Wait for its end, whatever it is; no longer than some time."""
        wait_for([self._future], seconds)

    def wait(self) -> None:
        """Wait until the checkpoint is whole.

        Raises:
            SaveError: On every rank, if one of them failed; nothing of the checkpoint is left.
        """
        try:
            self._future.result()
        except (Exception, CheckpointException) as error:  # torch's is no Exception
            if is_first_rank():  # all ranks have stopped writing when one learns of a failure
                with suppress(OSError):  # what is left goes at the next start; all ranks must say the same
                    remove(temporary_of(self.path))
            raise SaveError(self.path, reason_of(error)) from error


def save_in_background(
    checkpoint: Mapping[str, Any],
    path: Path,
    group: dist.ProcessGroup,
    on_whole: Callable[[], None] | None = None,
) -> Saving:
    """Copy a checkpoint's tensors to the host and write them in a thread; to be called by all ranks.

    Args:
        checkpoint: Lightning's; weights and optimizer state may change once this returns.
        path: The folder; written under another name, and renamed by the first rank once all ranks have written.
        group: Ranks of a backend for CPUs that nothing else uses meanwhile.
        on_whole: Called on the first rank, in the thread, after the renaming; what it raises fails the save.
    """
    tensors, rest = split(checkpoint)
    writer = _FolderWriter(path, rest, on_whole)
    future = cast(Future[Metadata], dcp.async_save(tensors, storage_writer=writer, process_group=group))
    return Saving(path, future)


class _FolderWriter(dcp.FileSystemWriter):
    """Writes into `NAME.tmp`; `finish`, called on the first rank when all have written, gives it its name."""

    def __init__(self, place: Path, rest: Mapping[str, Any], on_whole: Callable[[], None] | None) -> None:
        # One thread: with more, torch loses errors of the others.
        super().__init__(temporary_of(place), thread_count=1, overwrite=True)
        self.place = place
        self.on_whole = on_whole
        self.rest = io.BytesIO()
        torch.save(rest, self.rest)  # now, as training goes on changing what it refers to

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Any:
        """Write and sync this rank's shard; a failure is told to the other ranks, which needs a plain error."""
        try:
            return super().write_data(plan, planner)
        except Exception as error:
            raise OSError(reason_of(error)) from error

    def storage_meta(self) -> StorageMeta:
        """Leave out where it was written first, as folders move."""
        return StorageMeta(save_id=self.save_id)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write what is left, rename, and tell."""
        try:
            folder = Path(self.path)
            with (folder / META).open("wb") as file:
                file.write(self.rest.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            super().finish(metadata, results)
            sync_folder(folder)
            replace(folder, self.place)
            if self.on_whole is not None:
                self.on_whole()
        except Exception as error:
            raise OSError(reason_of(error)) from error


def temporary_of(path: Path) -> Path:
    """Return the name that a checkpoint has until it is whole."""
    return path.with_name(path.name + TEMPORARY)


def replace(source: Path, place: Path) -> None:
    """Rename a file, link or folder, also onto any of these, and make the name last.

    Only what is to take the place of a folder, or a folder that of a file, leaves a moment without either.
    """
    if place.exists() and not place.is_symlink() and (place.is_dir() or _is_folder(source)):
        former = place.with_name(place.name + FORMER)
        remove(former)
        place.rename(former)
        source.rename(place)
        remove(former)
    else:
        source.replace(place)
    sync_folder(place.parent)


def give_names_back(folder: Path) -> None:
    """Undo what a kill has cut in two: where `replace` has left nothing in a place, the former one returns to it."""
    for former in folder.glob(f"*{FORMER}"):
        place = former.with_name(former.name.removesuffix(FORMER))
        if not place.exists() and not place.is_symlink():
            with suppress(OSError):  # another rank was faster, or this process may only look
                former.rename(place)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def reason_of(error: BaseException) -> str:
    """Return why something could not be written: the system's word where there is one."""
    if isinstance(error, CheckpointException):
        failed = error.failures[min(error.failures)]
        return reason_of(failed[0] if isinstance(failed, tuple) else failed)
    cause: BaseException | None = error
    while cause is not None:  # torch raises its own error while it handles the system's
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
