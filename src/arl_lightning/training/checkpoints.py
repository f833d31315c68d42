"""A run's checkpoints: one for each step that was saved, and `last.ckpt`, which leads to the newest whole one."""

import errno
import os
import re
import warnings
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from arl_lightning.distributed.collectives import all_reduce_sum, gather_rows, world_size
from arl_lightning.distributed.fsdp2 import FSDP2Strategy
from arl_lightning.distributed.saving import SaveError, Saving, reason_of, remove, replace, temporary_of
from arl_lightning.distributed.sharded_checkpoint import is_whole, newest_whole
from arl_lightning.errors import UserError

LAST = "last.ckpt"
STEP = re.compile(r"step-\d{7,}\.ckpt")
LEFT_OVER = re.compile(r"(step-\d{7,}|last|nonfinite)\.ckpt(\.former)?\.tmp")
FULL_DISK = {os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
LINGER_SECONDS = 60.0


class RunCheckpoints(Checkpoint):
    """Save every so many steps and at the end, keep the newest, and let `last.ckpt` lead to the last one that is whole.

    A checkpoint is a file, or a folder that FSDP2's ranks write while training goes on. It gets its name when it is
    whole, so a kill at any time leaves the former one usable. Where it cannot be written, all ranks stop together.

    Args:
        folder: Where they lie.
        every_n_steps: Steps between two.
        keep: How many of the newest are kept; 0 keeps all.
    """

    def __init__(self, folder: Path, every_n_steps: int, keep: int) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.keep = keep
        self._saving: Saving | None = None  # in the background; one at most
        self._whole: str | None = None  # what last.ckpt leads to
        self._saved: str | None = None  # the same, if it holds a state of this run
        self._seen_step = 0

    @property
    def last(self) -> Path:
        """The link to the newest."""
        return self.folder / LAST

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove what a killed run has left half written, and see that a link can be made.

        Raises:
            UserError: On all ranks, if the folder cannot be used.
        """
        if stage != "fit":
            return
        reason = None
        if trainer.is_global_zero:
            try:
                self._prepare()
            except OSError as error:
                reason = reason_of(error)
        if reasons := [reason for reason in gather_rows(reason) if reason is not None]:
            raise UserError(
                f"{self.folder}: cannot hold checkpoints and a symbolic link to the last ({reasons[0]}); choose another"
                " --run.folder"
            )

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if LEFT_OVER.fullmatch(path.name):
                remove(path)
        trial = temporary_of(self.last)
        trial.symlink_to(LAST)
        trial.unlink()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the step that the run goes on from as seen."""
        self._seen_step = trainer.global_step
        # The first rank's view of the folder: ranks of other nodes may see it late, and all must decide alike.
        self._whole, self._saved = gather_rows(self._present(trainer.ckpt_path))[0]

    def _present(self, ckpt_path: Any) -> tuple[str | None, str | None]:
        """Name what `last.ckpt` leads to, and once more if the run goes on from that."""
        whole = self.last.resolve()
        if not is_whole(whole) or whole.parent != self.folder.resolve():
            return None, None
        return whole.name, whole.name if ckpt_path and Path(ckpt_path).resolve() == whole else None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Begin to save when it is time, and look after a save that goes on.

        Raises:
            UserError: On all ranks, if one could not be written.
        """
        if self._saving is not None and _done_everywhere(self._saving, trainer.strategy.root_device):
            self._finish()
        step = trainer.global_step
        if step != self._seen_step and step % self.every_n_steps == 0:
            self._finish()
            self._begin(trainer, self._place(step), final=True)
        self._seen_step = step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last step, if it is not saved already."""
        self.save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let a save that goes on come to its end."""
        if self._saving is not None:
            self._saving.linger(LINGER_SECONDS)

    def save(self, trainer: pl.Trainer, name: str | None = None) -> Path:
        """Save now, unless this step is saved already, and wait for it; to be called by all ranks.

        Args:
            trainer: Between two steps.
            name: Another name than the step's; such a checkpoint is not resumed from by itself, and is kept.

        Raises:
            UserError: On all ranks, if it could not be written.
        """
        self._finish()
        path = self._place(trainer.global_step) if name is None else self.folder / name
        if name is not None or self._saved != path.name:
            self._begin(trainer, path, final=name is None)
            self._finish()
        return path

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:07d}.ckpt"

    def _begin(self, trainer: pl.Trainer, path: Path, final: bool) -> None:
        """Write under FSDP2 in the background, else now on the first rank; `final` ones become the last."""
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        strategy = trainer.strategy
        commit = partial(self._commit, path) if final else None
        if isinstance(strategy, FSDP2Strategy):
            self._saving = strategy.save_in_background(checkpoint, path, commit)
        else:
            reason = None
            if trainer.is_global_zero:
                try:
                    strategy.save_checkpoint(checkpoint, path)
                    if commit is not None:
                        commit()
                except Exception as error:  # the other ranks wait for a word
                    reason = reason_of(error)
            self._saving = Saving(path, _outcome(gather_rows(reason)))
        self._becomes_last = final

    def _finish(self) -> None:
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        try:
            saving.wait()
        except SaveError as error:
            raise UserError(f"{error}; {self._advice(error.reason)}") from error
        if self._becomes_last:
            self._whole = self._saved = saving.path.name

    def _advice(self, reason: str) -> str:
        mend = "free space" if reason in FULL_DISK else "mend that"
        if self._whole is None:
            return f"there is no earlier one: {mend} and start again"
        return f"{self._whole} is whole: {mend} and go on with --ckpt_path last"

    def _commit(self, path: Path) -> None:
        """Let `last.ckpt` lead to a whole checkpoint and remove what is no longer kept; on the first rank."""
        link = temporary_of(self.last)
        remove(link)
        link.symlink_to(path.name)
        replace(link, self.last)
        if self.keep > 0:
            self._prune(path)

    def _prune(self, last: Path) -> None:
        steps = [path for path in self.folder.iterdir() if STEP.fullmatch(path.name) and path != last]
        steps.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)  # a run may have gone back some steps
        for path in steps[self.keep - 1 :]:
            try:
                path.rename(temporary_of(path))  # half removed, it would look whole
                remove(temporary_of(path))
            except OSError as error:
                warnings.warn(f"{path}: cannot be removed ({reason_of(error)}); remove it by hand", stacklevel=2)


def resume_from(folder: Path) -> Path | None:
    """Return what `--ckpt_path last` goes on from; None where the folder holds no checkpoint yet.

    Args:
        folder: Of a run's checkpoints; may not exist.

    Raises:
        UserError: If `last.ckpt` leads to nothing whole, in a line that names the newest one that is.
    """
    last = folder / LAST
    if is_whole(last):
        return last
    newest = newest_whole(folder)
    if last.is_symlink() or last.exists():
        advice = "" if newest is None else f"; go on with --ckpt_path {newest}, which is whole"
        raise UserError(f"{last}: leads to {last.resolve().name}, which is not whole{advice}")
    return newest  # the first one, of a run that was killed before it was linked


def _done_everywhere(saving: Saving, device: torch.device) -> bool:
    done = torch.tensor(float(saving.done()), device=device)
    return int(all_reduce_sum(done)) == world_size()


def _outcome(reasons: list[str | None]) -> Future[None]:
    """Return what is already known as a save that has ended."""
    future: Future[None] = Future()
    failed = [reason for reason in reasons if reason is not None]
    if failed:
        future.set_exception(OSError(failed[0]))
    else:
        future.set_result(None)
    return future
