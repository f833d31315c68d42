"""SIGUSR1 and SIGTERM end a run between two steps: on all ranks at once, saved, and back in Slurm's queue."""

from pathlib import Path
from signal import Signals
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from torch import Tensor

from arl_lightning.distributed import signals, slurm
from arl_lightning.distributed.signals import Stopped


class Saves(Protocol):
    """What can save a run: on all ranks, on disk when it returns."""

    def save(self, trainer: pl.Trainer) -> Path:
        """Save this step and return the checkpoint's path."""
        ...


class Agreement:
    """The largest of the numbers that the ranks give, one exchange late, so that none waits for it.

    It goes over CPUs in a group of its own: a signal is no reason to make a GPU wait. Every rank must make the same
    calls.
    """

    def __init__(self, world_size: int) -> None:
        self._group: dist.ProcessGroup | None = None
        if world_size > 1:
            self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        self._pending: tuple[Tensor, dist.Work | None] | None = None

    def exchange(self, number: int) -> int:
        """Give a number to the other ranks; returns the largest that was given at the call before, 0 at the first."""
        agreed = self.close()
        given = torch.tensor(number)
        work = None
        if self._group is not None:
            work = dist.all_reduce(given, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (given, work)
        return agreed

    def close(self) -> int:
        """Wait for an exchange that is under way; returns the largest number."""
        if self._pending is None:
            return 0
        given, work = self._pending
        self._pending = None
        if work is not None:
            work.wait()
        return int(given)

    def tell(self, said: str | None) -> str:
        """Return what the first rank says, which the others wait for."""
        sayings = [said]
        if self._group is not None:
            dist.broadcast_object_list(sayings, src=0, group=self._group)
        return sayings[0] or ""


class Preemption(pl.Callback):
    """End a run that a signal asks to stop: save, let rank 0 requeue the job, raise `Stopped` on all ranks.

    It must be the last callback, so that the others are done with the step. Lightning's own answers to signals, which
    exchange tensors inside a handler and once more in every step, are switched off.

    Args:
        checkpoints: What saves the run.
    """

    def __init__(self, checkpoints: Saves) -> None:
        self.checkpoints = checkpoints
        self._agreement: Agreement | None = None
        self._step = 0
        self._held = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Hold signals back, if the command does not do so already."""
        self._held = signals.hold() or self._held
        trainer._signal_connector = _Deaf(trainer)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the group to agree in."""
        self._agreement = Agreement(trainer.world_size)
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Ask all ranks after each whole step, never between batches that accumulate to one.

        Raises:
            Stopped: On all ranks, if one of them has received a signal.
        """
        if self._agreement is None or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        agreed = self._agreement.exchange(signals.received() or 0)
        if agreed and trainer.global_step < trainer.max_steps:
            self._stop(trainer, Signals(agreed), self._agreement)

    def _stop(self, trainer: pl.Trainer, number: Signals, agreement: Agreement) -> None:
        agreement.close()
        path = self.checkpoints.save(trainer)
        # No rank may leave before rank 0 has requeued the job: srun would end rank 0 too.
        then = agreement.tell(_what_next() if trainer.is_global_zero else None)
        raise Stopped(f"stopped by {number.name} at step {trainer.global_step}, saved to {path}; {then}", number)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish with the other ranks; a signal that came too late for a step is of no interest."""
        if self._agreement is not None:
            self._agreement.close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put back the handlers that were there before."""
        if self._held:
            signals.release()
            self._held = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Put back the handlers too: Lightning does not tear callbacks down after an exception."""
        self.teardown(trainer, pl_module, "fit")


def _what_next() -> str:
    job = slurm.job_id()
    return "go on with --ckpt_path last" if job is None else slurm.send_back(job)


class _Deaf(_SignalConnector):
    """Leaves signals alone."""

    def register_signal_handlers(self) -> None:
        """Register none."""

    def teardown(self) -> None:
        """Restore none."""


def _nothing() -> None:
    """Stand in for an exchange with all ranks that makes the GPU wait in every step."""
