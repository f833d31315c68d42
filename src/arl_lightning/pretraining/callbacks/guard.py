"""Checkpoints at a run's end, good or bad: the last step, or the one at which losses stopped being finite."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from arl_lightning.errors import UserError
from arl_lightning.pretraining.arl import ARL


class NonFiniteGuard(pl.Callback):
    """Raise after a streak of skipped steps; the module has skipped each of them.

    Args:
        folder: Where `nonfinite.ckpt` goes.
        max_streak: Steps in a row that may be skipped.
    """

    def __init__(self, folder: Path, max_streak: int = 10) -> None:
        self.folder = folder
        self.max_streak = max_streak

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Look at the module's count, which is the same on every rank.

        Raises:
            UserError: Once the streak is too long.
        """
        if not isinstance(pl_module, ARL) or pl_module.nonfinite_streak < self.max_streak:
            return
        path = self.folder / "nonfinite.ckpt"
        trainer.save_checkpoint(path)
        raise UserError(
            f"step {trainer.global_step}: {pl_module.nonfinite_streak} steps in a row were not finite and were skipped;"
            f" lower model.optimization.base_lr or use --trainer.precision 32-true (weights: {path})"
        )


class FinalCheckpoint(pl.Callback):
    """Save the last step, whether or not it is a multiple of the checkpoint interval.

    Args:
        path: The checkpoint that the next run resumes from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; Lightning writes a temporary file first and renames it."""
        trainer.save_checkpoint(self.path)
