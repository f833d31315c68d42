"""What a run adds to Lightning's trainer: strategy, callbacks, checkpoint files, a logger inside the run folder."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy

from arl_lightning.distributed.options import Distributed
from arl_lightning.distributed.slurm import cluster_environment
from arl_lightning.distributed.strategies import build_strategy
from arl_lightning.pretraining import callbacks
from arl_lightning.pretraining.run import Run
from arl_lightning.training.checkpoint_io import AtomicCheckpointIO
from arl_lightning.training.checkpoints import RunCheckpoints
from arl_lightning.training.communication import Communication
from arl_lightning.training.preemption import Preemption
from arl_lightning.training.progress import Progress, Throughput
from arl_lightning.training.stalls import StallGuard

# Strategies that a recipe may give as a class, and the names under which they are refused.
REFUSED_CLASSES: dict[type[Strategy], str] = {FSDPStrategy: "fsdp", DeepSpeedStrategy: "deepspeed"}


def trainer_arguments(run: Run, distributed: Distributed, given: dict[str, Any]) -> dict[str, Any]:
    """Return the trainer's arguments that a recipe cannot leave out; what it names itself comes first.

    Args:
        run: Where the run leaves what it makes, and how often.
        distributed: How its ranks work together.
        given: The recipe's `strategy`, `num_nodes`, `callbacks` and `plugins`.

    Raises:
        UserError: If the strategy cannot be used, or the ranks could not meet.
    """
    return {
        "strategy": chosen_strategy(given["strategy"], distributed, given["num_nodes"]),
        "callbacks": _callbacks(run, distributed, _listed(given["callbacks"])),
        "plugins": [*_listed(given["plugins"]), *cluster_environment(), AtomicCheckpointIO()],
        "logger": TensorBoardLogger(run.path, name="", version="tensorboard"),
    }


def chosen_strategy(given: Any, distributed: Distributed, num_nodes: int) -> Any:
    """Return the strategy that a recipe names, or has given as a class.

    Raises:
        UserError: If it cannot be used.
    """
    name = given if isinstance(given, str) else REFUSED_CLASSES.get(type(given))
    return given if name is None else build_strategy(name, distributed, num_nodes)


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
