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
from lightning.pytorch.callbacks import Checkpoint

from arl_lightning.distributed.collectives import gather_rows
from arl_lightning.distributed.fsdp2 import SAVE_TIMEOUT, FSDP2Strategy
from arl_lightning.distributed.saving import (
    WHOLE,
    SaveError,
    Saving,
    give_names_back,
    reason_of,
    remove,
    replace,
    temporary_of,
)
from arl_lightning.distributed.sharded_checkpoint import is_whole, newest_whole, open_source
from arl_lightning.errors import UserError
from arl_lightning.training.preemption import Agreement
from arl_lightning.training.restoring import Restoring
from arl_lightning.training.stalls import patient

LAST = "last.ckpt"
STEP = re.compile(r"step-\d{7,}\.ckpt")
LEFT_OVER = re.compile(r"(step-\d{7,}|last|nonfinite)\.ckpt(\.former)?\.tmp")
FULL_DISK = {os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
LINGER_SECONDS = 60.0
ENDED, GOES_ON = 1, 2  # what a rank tells the others of a save; the largest counts


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
        self._becomes_last = False  # that one
        self._agreement: Agreement | None = None  # on its end, where ranks may learn of it at different times
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
        trainer._checkpoint_connector = Restoring(trainer)
        reason = None
        if trainer.is_global_zero:
            try:
                self._prepare()
            except (OSError, UserError) as error:
                reason = reason_of(error)
        if reasons := [reason for reason in gather_rows(reason) if reason is not None]:
            raise UserError(
                f"{self.folder}: cannot hold checkpoints and a symbolic link to the last ({reasons[0]}); choose another"
                " --run.folder"
            )

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        give_names_back(self.folder)
        for path in self.folder.iterdir():
            if LEFT_OVER.fullmatch(path.name):
                remove(path)
        trial = temporary_of(self.last)
        trial.symlink_to(LAST)
        trial.unlink()
        self._name_plain_last()

    def _name_plain_last(self) -> None:
        """Give what an older run saved as `last.ckpt` its step's name, as the next save takes that place."""
        if self.last.is_symlink() or not is_whole(self.last):
            return
        step = open_source(self.last).rest.get("global_step")
        if step is not None and not (place := self._place(step)).exists():
            self.last.rename(place)
            self._link(place)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the step that the run goes on from as seen."""
        self._seen_step = trainer.global_step
        self._agreement = Agreement(trainer.world_size) if isinstance(trainer.strategy, FSDP2Strategy) else None
        # The first rank's view of the folder: ranks of other nodes may see it late, and all must decide alike.
        present = self._present(trainer.ckpt_path) if trainer.is_global_zero else (None, None)
        self._whole, self._saved = gather_rows(present)[0]

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
        if self._saving is not None and self._has_ended_everywhere(self._saving):
            self._finish(trainer)
        step = trainer.global_step
        if step != self._seen_step and step % self.every_n_steps == 0:
            self._finish(trainer)
            self._begin(trainer, self._place(step), final=True)
        self._seen_step = step

    def _has_ended_everywhere(self, saving: Saving) -> bool:
        """Ask without waiting: the answer is that of the batch before."""
        if self._agreement is None:
            return True
        return self._agreement.exchange(ENDED if saving.done() else GOES_ON) == ENDED

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last step, if it is not saved already."""
        self.save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let a save that goes on come to its end, and tell if that is not a good one."""
        if self._saving is None:
            return
        self._saving.linger(LINGER_SECONDS)
        if not trainer.is_global_zero:
            return
        try:
            if not self._saving.done():
                raise SaveError(self._saving.path, f"not ended after {LINGER_SECONDS:.0f} s")
            self._saving.wait()
        except SaveError as error:
            warnings.warn(str(error), stacklevel=2)

    def save(self, trainer: pl.Trainer, name: str | None = None) -> Path:
        """Save now, unless this step is saved already, and wait for it; to be called by all ranks.

        Args:
            trainer: Between two steps.
            name: Another name than the step's; such a checkpoint is not resumed from by itself, and is kept.

        Raises:
            UserError: On all ranks, if it could not be written.
        """
        self._finish(trainer)
        path = self._place(trainer.global_step) if name is None else self.folder / name
        if name is not None or self._saved != path.name:
            self._begin(trainer, path, final=name is None)
            self._finish(trainer)
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

    def _finish(self, trainer: pl.Trainer) -> None:
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        if self._agreement is not None:
            self._agreement.close()
        try:
            with patient(trainer, f"waiting for {saving.path.name} to be saved", SAVE_TIMEOUT.total_seconds()):
                saving.wait()
        except SaveError as error:
            raise UserError(f"{error}; {self._advice(error, saving.path)}") from error
        if self._becomes_last:
            self._whole = self._saved = saving.path.name

    def _advice(self, error: SaveError, path: Path) -> str:
        mend = "free space" if any(said in error.reason for said in FULL_DISK) else "mend that"
        if error.is_whole:
            return f"{mend} and go on with --ckpt_path {path}"
        if self._whole is None:
            return f"there is no earlier one: {mend} and start again"
        return f"{self._whole} is whole: {mend} and go on with --ckpt_path last"

    def _commit(self, path: Path) -> None:
        """Let `last.ckpt` lead to a whole checkpoint and remove what is no longer kept; on the first rank."""
        try:
            self._link(path)
        except OSError as error:
            raise OSError(f"{WHOLE} {LAST} cannot lead to it ({reason_of(error)})") from error
        if self.keep > 0:
            try:
                self._prune(path)
            except OSError as error:  # nothing is lost
                self._warn_of_rest(self.folder, error)

    def _link(self, path: Path) -> None:
        link = temporary_of(self.last)
        remove(link)
        link.symlink_to(path.name)
        replace(link, self.last)

    def _prune(self, last: Path) -> None:
        steps = [path for path in self.folder.iterdir() if STEP.fullmatch(path.name) and path != last]
        steps.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)  # a run may have gone back some steps
        for path in steps[self.keep - 1 :]:
            try:
                path.rename(temporary_of(path))  # half removed, it would look whole
                remove(temporary_of(path))
            except OSError as error:
                self._warn_of_rest(path, error)

    def _warn_of_rest(self, path: Path, error: OSError) -> None:
        said = f"{path}: former checkpoints cannot be removed ({reason_of(error)}); remove them by hand"
        warnings.warn(said, stacklevel=3)


def resume_from(folder: Path) -> Path | None:
    """Return what `--ckpt_path last` goes on from; None where the folder holds no checkpoint yet.

    Args:
        folder: Of a run's checkpoints; may not exist.

    Raises:
        UserError: If `last.ckpt` leads to nothing whole, in a line that names the newest one that is.
    """
    give_names_back(folder)
    last = folder / LAST
    if is_whole(last):
        return last
    newest = newest_whole(folder)
    if last.is_symlink() or last.exists():
        advice = "" if newest is None else f"; go on with --ckpt_path {newest}, which is whole"
        raise UserError(f"{last}: leads to {last.resolve().name}, which is not whole{advice}")
    return newest  # the first one, of a run that was killed before it was linked


def _outcome(reasons: list[str | None]) -> Future[None]:
    """Return what is already known as a save that has ended."""
    future: Future[None] = Future()
    failed = [reason for reason in reasons if reason is not None]
    if failed:
        future.set_exception(OSError(failed[0]))
    else:
        future.set_result(None)
    return future
