"""Stops a run whose losses stay other than finite."""

from typing import Any

import lightning.pytorch as pl

from arl_lightning.errors import UserError
from arl_lightning.pretraining.arl import ARL
from arl_lightning.training.checkpoints import RunCheckpoints

NONFINITE = "nonfinite.ckpt"


class NonFiniteGuard(pl.Callback):
    """Raise after a streak of skipped steps; the module has skipped each of them.

    Args:
        checkpoints: Of the run; `nonfinite.ckpt` is saved beside them.
        max_streak: Steps in a row that may be skipped.
    """

    def __init__(self, checkpoints: RunCheckpoints, max_streak: int = 10) -> None:
        self.checkpoints = checkpoints
        self.max_streak = max_streak

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Look at the module's count, which is the same on every rank.

        Raises:
            UserError: Once the streak is too long.
        """
        if not isinstance(pl_module, ARL) or pl_module.nonfinite_streak < self.max_streak:
            return
        path = self.checkpoints.save(trainer, NONFINITE)
        raise UserError(
            f"step {trainer.global_step}: {pl_module.nonfinite_streak} steps in a row were not finite and were skipped;"
            f" lower model.optimization.base_lr or use --trainer.precision 32-true (weights: {path})"
        )
