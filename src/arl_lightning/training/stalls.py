"""A run whose ranks no longer move ends, and says whom it waits for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.strategies import ParallelStrategy

from arl_lightning.distributed import failures
from arl_lightning.distributed.watchdog import Watchdog

PATIENCE = 3.0  # times as long for what happens once, such as compiling and the first step, and to begin a checkpoint


@contextmanager
def patient(trainer: pl.Trainer, doing: str, seconds: float) -> Iterator[None]:
    """Let the watchdog wait at least so long for what is done inside; to be entered by all ranks alike.

    Args:
        trainer: Whose callbacks may have a `StallGuard`.
        doing: What this rank is about.
        seconds: What ends by itself after that time.
    """
    guards = [each for each in trainer.callbacks if isinstance(each, StallGuard)]  # type: ignore[attr-defined]
    for guard in guards:
        guard._mark(doing, max(1.0, seconds / guard.seconds))
    yield
    for guard in guards:
        guard._mark(f"after step {trainer.global_step}")


class StallGuard(pl.Callback):
    """Keep a watchdog while several ranks train; it must be the first callback.

    Args:
        seconds: That a step, a batch of validation or the wait for data may take.
        beat_seconds: Between two signs of life.
    """

    def __init__(self, seconds: float, beat_seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.beat_seconds = beat_seconds
        self._watchdog: Watchdog | None = None
        self._warm = False  # a step has been done, nothing is compiled any more

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to watch, on all ranks."""
        strategy = trainer.strategy
        if stage != "fit" or trainer.world_size == 1 or not isinstance(strategy, ParallelStrategy):
            return
        cluster = strategy.cluster_environment
        if cluster is None or not dist.is_initialized():
            return
        self._watchdog = Watchdog(
            trainer.global_rank,
            trainer.world_size,
            cluster.main_address,
            cluster.main_port,
            self.seconds,
            self.beat_seconds,
        )
        failures.watch(self._watchdog)
        self._watchdog.start(PATIENCE)
        strategy.barrier("watchdog")

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """The batch is there."""
        self._mark(f"in step {trainer.global_step + 1}", 1.0 if self._warm else PATIENCE)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """The step is done."""
        self._warm = True
        self._mark(f"waiting for the data of step {trainer.global_step + 1}")

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """A held-out batch is there."""
        self._mark(f"in validation after step {trainer.global_step}")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Training goes on."""
        self._mark(f"waiting for the data of step {trainer.global_step + 1}")

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        """All ranks save, or wait for the one that does."""
        self._mark(f"saving step {trainer.global_step}", PATIENCE)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """What follows happens once, the last checkpoint too."""
        self._mark("ending", PATIENCE)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let the other ranks know, unless it is them who failed."""
        if self._watchdog is not None:
            self._watchdog.fail(None if failures.is_a_peers(exception) else failures.in_words(exception))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Watch no more."""
        if self._watchdog is not None:
            self._watchdog.stop()
            failures.watch(None)

    def _mark(self, doing: str, patience: float = 1.0) -> None:
        if self._watchdog is not None:
            self._watchdog.mark(doing, patience)
