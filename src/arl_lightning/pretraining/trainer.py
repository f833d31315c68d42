"""What a run adds to Lightning's trainer: callbacks, checkpoint files and a logger inside the run folder."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from arl_lightning.pretraining import callbacks
from arl_lightning.pretraining.run import LAST, Run
from arl_lightning.training.checkpoint_io import AtomicCheckpointIO
from arl_lightning.training.progress import Progress, Throughput


def trainer_arguments(run: Run, given_callbacks: Any, given_plugins: Any) -> dict[str, Any]:
    """Return the trainer's arguments that a recipe cannot leave out; what it names itself comes first."""
    return {
        "callbacks": [*_listed(given_callbacks), *_callbacks(run)],
        "plugins": [*_listed(given_plugins), AtomicCheckpointIO()],
        "logger": TensorBoardLogger(run.path, name="", version="tensorboard"),
    }


def _listed(given: Any) -> Sequence[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _callbacks(run: Run) -> list[pl.Callback]:
    saving = ModelCheckpoint(
        dirpath=run.checkpoints,
        filename="{step:07d}" if run.keep_every_checkpoint else LAST,
        auto_insert_metric_name=False,
        every_n_train_steps=run.checkpoint_every_n_steps,
        save_top_k=-1 if run.keep_every_checkpoint else 1,
        save_last=run.keep_every_checkpoint,
        enable_version_counter=False,
    )
    return [
        callbacks.CollapseMonitor(run.watch_every_n_steps),
        callbacks.ReconstructionPictures(run.pictures, run.pictures_every_n_steps),
        Progress(),
        callbacks.NonFiniteGuard(run.checkpoints),
        callbacks.DataGuard(run.last_checkpoint, run.watch_every_n_steps),
        callbacks.FinalCheckpoint(run.last_checkpoint),
        Throughput(),
        saving,
    ]
