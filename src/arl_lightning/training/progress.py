"""One bar over all steps of a run, and how fast it goes."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

# Metric, its name on the bar.
PRETRAINING = {
    "train/images_per_second": "img/s",
    "train/loss/self_distillation": "sd",
    "train/loss/reconstruction": "mim",
    "train/loss/adversarial": "adv",
    "train/loss/discriminator": "disc",
    "train/adaptive_weight": "lambda",
}


class Throughput(pl.Callback):
    """Log `train/images_per_second` of all ranks and `train/data_wait_share`, the share of time spent waiting for data.

    Args:
        field: A field of the batch with one entry for each image.
        smoothing: Share of the past in the running means.
    """

    def __init__(self, field: str = "key", smoothing: float = 0.9) -> None:
        self.field = field
        self.smoothing = smoothing
        self._ended: float | None = None
        self._waited = 0.0  # what the loader had counted when the last batch ended
        self._means: tuple[float, float] | None = None  # seconds a batch, seconds of it waiting

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave validation out of the rate."""
        self._ended = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the running means; the first batch, which builds and warms up, is left out."""
        now, waited_before = time.perf_counter(), self._waited
        self._waited = getattr(trainer.train_dataloader, "seconds_waited", 0.0)
        if self._ended is not None:
            latest = (now - self._ended, self._waited - waited_before)
            past = self._means or latest
            kept = self.smoothing
            self._means = (kept * past[0] + (1 - kept) * latest[0], kept * past[1] + (1 - kept) * latest[1])
            seconds, waited = self._means
            num_images = len(batch[self.field])
            speed = {
                "train/images_per_second": torch.tensor(num_images * trainer.world_size / seconds),
                "train/data_wait_share": torch.tensor(waited / seconds),
            }
            pl_module.log_dict(speed, batch_size=num_images)
        self._ended = now


class Progress(ProgressBar):
    """A bar over the run's steps with rate, time left and a few metrics.

    Where the output is no terminal, a line appears every `log_seconds` instead.

    Args:
        name: Stands before the bar.
        shown: Metrics, and their names on the bar.
        log_seconds: Seconds between two lines in a log file.
    """

    def __init__(
        self, name: str = "pretrain", shown: Mapping[str, str] = PRETRAINING, log_seconds: float = 30.0
    ) -> None:
        super().__init__()
        self.name, self.shown = name, shown
        self.log_seconds = log_seconds
        self._enabled = True
        self._bar: tqdm | None = None

    def disable(self) -> None:
        """Show nothing; Lightning calls this on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the run stands."""
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=trainer.max_steps if trainer.max_steps > 0 else int(trainer.estimated_stepping_batches),
            initial=trainer.global_step,
            desc=self.name,
            unit="step",
            file=sys.stderr,
            disable=not self._enabled,
            dynamic_ncols=terminal,
            miniters=1,
            mininterval=0.5 if terminal else self.log_seconds,
            bar_format=None if terminal else "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}\n",
        )

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Move on to the trainer's step."""
        if self._bar is None:
            return
        moved = trainer.global_step - self._bar.n
        if self._due():
            self._bar.set_postfix(self._metrics(trainer), refresh=False)
        self._bar.update(moved)

    def _metrics(self, trainer: pl.Trainer) -> dict[str, str]:
        metrics = trainer.callback_metrics
        return {short: f"{float(metrics[name]):.3g}" for name, short in self.shown.items() if name in metrics}

    def _due(self) -> bool:
        """Whether the bar is about to be drawn: reading metrics would make a GPU wait otherwise."""
        bar = self._bar
        return bar is not None and not bar.disable and time.time() - bar.last_print_t >= bar.mininterval

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last state and close."""
        if self._bar is not None:
            self._bar.n = max(self._bar.n, trainer.global_step)
            if not self._bar.disable:
                self._bar.set_postfix(self._metrics(trainer), refresh=False)
            self._bar.close()

    def on_exception(self, *_: Any) -> None:
        """Leave the terminal in order for the error's line."""
        if self._bar is not None:
            self._bar.close()
