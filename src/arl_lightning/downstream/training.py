"""Runs a LightningModule over a task's cases: the trainer, its callbacks, and the best epoch's weights."""

import time
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from arl_lightning.data.tasks.datamodule import TaskDataModule
from arl_lightning.downstream.options import Devices, Optimization
from arl_lightning.errors import UserError
from arl_lightning.models.weights import read_checkpoint
from arl_lightning.training.checkpoint_io import AtomicCheckpointIO
from arl_lightning.training.progress import Progress, Throughput
from arl_lightning.training.quiet import silence_lightning

BEST = "best"
SHOWN = {
    "train/images_per_second": "img/s",
    "train/loss": "loss",
    "val/auroc": "auroc",
    "val/accuracy": "acc",
    "val/dice": "dice",
}


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
        trainer: The trainer, for predicting with the same devices.
        checkpoint: The chosen epoch's weights, which the module now holds.
        epoch: The chosen epoch, from 0.
        num_epochs: Epochs trained.
        seconds: They took, validation included.
        data_wait_share: Share of the time of training, without validation, that was spent waiting for batches.
    """

    trainer: pl.Trainer
    checkpoint: Path
    epoch: int
    num_epochs: int
    seconds: float
    data_wait_share: float


def new_trainer(devices: Devices, folder: Path, epochs: int, clip: float, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Return a trainer that writes below a folder.

    Raises:
        UserError: If the machine has no such devices.
    """
    silence_lightning()
    accelerator = devices.accelerator
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return pl.Trainer(
            accelerator=accelerator,
            devices=devices.devices,
            num_nodes=devices.num_nodes,
            strategy=devices.strategy,
            precision=devices.precision,
            deterministic=devices.deterministic,
            max_epochs=epochs,
            gradient_clip_val=clip or None,
            logger=TensorBoardLogger(folder, name="", version="tensorboard"),
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the loaders know the ranks
            log_every_n_steps=1,
        )
    except pl.utilities.exceptions.MisconfigurationException as error:
        raise UserError(f"devices: {error}") from error


def train(
    module: pl.LightningModule,
    data: TaskDataModule,
    folder: Path,
    options: Optimization,
    devices: Devices,
    monitor: tuple[str, str] | None,
    name: str,
) -> Trained:
    """Train, and load the epoch that did best on the validation cases; test cases are not looked at.

    Args:
        module: Trained in place.
        data: Its cases.
        folder: For checkpoints and TensorBoard.
        options: Epochs, patience and clipping.
        devices: What it runs on.
        monitor: The metric that chooses, and whether `max` or `min` of it is best; None keeps the last epoch.
        name: Stands before the progress bar.

    Raises:
        UserError: If the loss stops being finite, or the machine has no such devices.
    """
    saving = ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename=BEST,
        monitor=monitor[0] if monitor else None,
        mode=monitor[1] if monitor else "min",
        save_top_k=1,
        save_weights_only=True,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
    clock = TrainingTime()
    callbacks: list[pl.Callback] = [saving, Progress(name, SHOWN), Throughput("index"), FiniteLoss(), clock]
    if options.patience and monitor:
        callbacks.append(EarlyStopping(monitor[0], mode=monitor[1], patience=options.patience))
    trainer = new_trainer(devices, folder, options.epochs, options.clip, callbacks)
    module.train()  # Lightning leaves it as it is, and features may have been read before
    started = time.perf_counter()
    trainer.fit(module, datamodule=data)
    seconds = time.perf_counter() - started
    path = Path(saving.best_model_path)
    checkpoint = read_checkpoint(path)
    module.load_state_dict(checkpoint["state_dict"])
    waited = getattr(trainer.train_dataloader, "seconds_waited", 0.0)
    return Trained(trainer, path, checkpoint["epoch"], trainer.current_epoch, seconds, waited / clock.seconds)


class TrainingTime(pl.Callback):
    """Adds up the seconds of training, without validation.

    Attributes:
        seconds: So far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def on_train_epoch_start(self, *_: object) -> None:
        """Begin to count."""
        self._since = time.perf_counter()

    def on_validation_start(self, *_: object) -> None:
        """Stop counting."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def on_train_epoch_end(self, *_: object) -> None:
        """Stop counting where nothing was validated."""
        self.on_validation_start()


class FiniteLoss(pl.Callback):
    """Stops a training whose loss is no number any more, at the end of the epoch: looking makes a GPU wait."""

    def __init__(self) -> None:
        self._finite: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, *_: object
    ) -> None:
        """Remember whether every loss was finite, on the device."""
        loss = outputs["loss"] if isinstance(outputs, dict) else None
        if loss is not None:
            finite = torch.isfinite(loss.detach()).all()
            self._finite = finite if self._finite is None else self._finite & finite

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look before weights that are no numbers are validated.

        Raises:
            UserError: If a loss of this rank was not finite.
        """
        if self._finite is not None and not self._finite:
            raise UserError(
                f"epoch {trainer.current_epoch}: the loss is not finite; lower optimization.base_lr, or use"
                " --devices.precision 32-true"
            )
