"""What a run adds to Lightning's trainer: strategy, callbacks, checkpoint files, a logger inside the run folder."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import Strategy

from arl_lightning.distributed.options import Distributed
from arl_lightning.distributed.slurm import cluster_environment
from arl_lightning.distributed.strategies import AUTO, DDP, build_strategy, check_options, refuse_strategy
from arl_lightning.pretraining import callbacks
from arl_lightning.pretraining.allocation import GPU_ACCELERATORS, asked_for
from arl_lightning.pretraining.run import Run
from arl_lightning.training.checkpoint_io import AtomicCheckpointIO
from arl_lightning.training.checkpoints import RunCheckpoints
from arl_lightning.training.communication import Communication
from arl_lightning.training.preemption import Preemption
from arl_lightning.training.progress import Progress, Throughput
from arl_lightning.training.stalls import StallGuard

SHORT_PRECISIONS = {"None": "32-true", "32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}


def trainer_arguments(run: Run, distributed: Distributed, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trainer's arguments that a recipe cannot leave out; what it names itself comes first.

    Args:
        run: Where the run leaves what it makes, and how often.
        distributed: How its ranks work together.
        given: The recipe's `trainer`, as built so far.

    Raises:
        UserError: If the strategy cannot be used, or the ranks could not meet.
    """
    return {
        "strategy": chosen_strategy(given, distributed),
        "callbacks": _callbacks(run, distributed, _listed(given["callbacks"])),
        "plugins": [*_listed(given["plugins"]), *cluster_environment(), AtomicCheckpointIO()],
        "logger": TensorBoardLogger(run.path, name="", version="tensorboard"),
    }


def chosen_strategy(given: Mapping[str, Any], distributed: Distributed) -> Strategy | str:
    """Return the strategy that a recipe names, or gives as a class; for several ranks `auto` is ddp.

    A class gets its arguments from the recipe, none of `distributed`.

    Raises:
        UserError: If it cannot be used.
    """
    check_strategy(given, distributed)
    strategy = given["strategy"]
    if strategy == AUTO:
        gpus = torch.cuda.device_count() or None
        ranks = asked_for(given["accelerator"], given["devices"], given["num_nodes"], gpus)
        strategy = DDP if ranks.world_size > 1 else AUTO
    return build_strategy(strategy, distributed, given["num_nodes"]) if isinstance(strategy, str) else strategy


def check_strategy(given: Mapping[str, Any], distributed: Distributed) -> None:
    """Refuse a strategy, or options of it, that cannot be used; needs no devices.

    Args:
        given: The recipe's `trainer`, as built so far.
        distributed: How its ranks work together.

    Raises:
        UserError: With the key and what would do.
    """
    accelerator = given["accelerator"]
    on_gpus = accelerator in GPU_ACCELERATORS or (accelerator == "auto" and torch.cuda.is_available())
    refuse_strategy(given["strategy"])
    check_options(given["strategy"], distributed, on_gpus=on_gpus, precision=full_precision_name(given["precision"]))


def full_precision_name(precision: Any) -> str:
    """Spell a precision in full."""
    return SHORT_PRECISIONS.get(str(precision), str(precision))


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _callbacks(run: Run, distributed: Distributed, given: list[pl.Callback]) -> list[pl.Callback]:
    """Put the recipe's callbacks between the first, which watches all others, and the last, which may stop the run."""
    checkpoints = RunCheckpoints(run.checkpoints, run.checkpoint_every_n_steps, run.keep)
    return [
        StallGuard(distributed.timeout_seconds),
        *given,
        Communication(distributed.ordered_sum),
        callbacks.CollapseMonitor(run.watch_every_n_steps),
        callbacks.ReconstructionPictures(run.pictures, run.pictures_every_n_steps),
        Progress(),
        callbacks.NonFiniteGuard(checkpoints),
        callbacks.DataGuard(checkpoints, run.watch_every_n_steps),
        Throughput(),
        Preemption(checkpoints),
        checkpoints,
    ]
