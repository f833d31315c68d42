"""The first lines of a run, which its checkpoints and TensorBoard keep too."""

from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from arl_lightning.training.setting import LABEL, Setting, gather_setting


class StartReport(pl.Callback):
    """Say what a run does and what it runs on, once the ranks know each other.

    Args:
        say: Shows the user lines; called on the first rank.
        describe: Returns lines about what is trained on what, each with a label in its first columns; called on the
            first rank, when the data are set up.
    """

    def __init__(self, say: Callable[[str], None], describe: Callable[[], Iterable[str]]) -> None:
        self.say = say
        self.describe = describe
        self.setting: Setting | None = None
        self.lines: list[str] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look around on all ranks, say it on the first."""
        if stage != "fit":
            return
        num_workers = getattr(trainer.datamodule, "num_workers", 0)  # type: ignore[attr-defined]
        self.setting = gather_setting(trainer.strategy.root_device, num_workers)
        if not trainer.is_global_zero:
            return
        warnings = ["warning".ljust(LABEL) + warning for warning in self.setting.warnings()]
        self.lines = [*self.describe(), *self.setting.lines(), *warnings]
        self.say("\n".join(self.lines))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it to TensorBoard at the step where this run begins."""
        if isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero:
            # TensorBoard reads Markdown: four columns keep the lines apart.
            text = "\n".join(f"    {line}" for line in self.lines)
            trainer.logger.experiment.add_text("start", text, trainer.global_step)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what the last run that trained these weights ran on."""
        if self.setting is not None:
            checkpoint["setting"] = self.setting.plain() | {"report": self.lines}
