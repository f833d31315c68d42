"""Lightning's strategies by the names of a recipe."""

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from arl_lightning.distributed.fsdp2 import FSDP2Strategy
from arl_lightning.distributed.options import Distributed
from arl_lightning.errors import UserError

AUTO, DDP, FSDP2, HSDP = "auto", "ddp", "fsdp2", "hsdp"
STRATEGIES = (AUTO, DDP, FSDP2, HSDP)
SHARDED = (FSDP2, HSDP)
# All under which every rank's gradients count. A subclass may do anything else.
CLASSES: tuple[type[Strategy], ...] = (SingleDeviceStrategy, DDPStrategy, FSDP2Strategy)
BACKEND_PATIENCE = 4  # times the watchdog's limit, which is the first to speak: it knows who is missing
REFUSED = {  # by how names begin, of a registered strategy or of a class
    "fsdp": "does not synchronise gradients of a loss built of several networks' calls (Lightning issues 19626, 19685)",
    "deepspeed": "takes one network and one loss",
    "modelparallel": "splits no layer of these networks",
}


def refuse_strategy(given: Strategy | str) -> None:
    """Refuse what would train each rank alone, or not at all.

    Args:
        given: The name in a recipe, or what it gives as a class.

    Raises:
        UserError: If the strategy is none of ours.
    """
    if given in STRATEGIES or type(given) in CLASSES:
        return
    name = given if isinstance(given, str) else type(given).__name__
    for start, reason in REFUSED.items():
        if name.lower().replace("_", "").startswith(start):
            raise UserError(f"trainer.strategy: {name} {reason}; use {FSDP2}")
    raise UserError(f"trainer.strategy: '{name}' is not one of {', '.join(STRATEGIES)}")


def check_options(strategy: Strategy | str, options: Distributed, *, on_gpus: bool, precision: str) -> None:
    """Refuse options that the strategy or the devices cannot follow.

    Args:
        strategy: As for `refuse_strategy`.
        options: The recipe's.
        on_gpus: Whether each rank has a GPU.
        precision: As Lightning spells it in full.

    Raises:
        UserError: With the key and what would do.
    """
    if options.cpu_offload and strategy not in SHARDED:
        raise UserError("distributed.cpu_offload: needs sharded weights; set trainer.strategy to fsdp2 or hsdp")
    if (options.cpu_offload or getattr(strategy, "cpu_offload", False)) and not on_gpus:
        raise UserError("distributed.cpu_offload: only with GPUs; set it to false")
    if "nccl" in (options.backend or "") and not on_gpus:
        raise UserError(f"distributed.backend: {options.backend} needs GPUs; use gloo, or null")
    if options.cpu_offload and options.backend == "nccl":
        raise UserError("distributed.backend: nccl cannot sum what is offloaded; use cuda:nccl,cpu:gloo, or null")
    if precision == "64-true" and (strategy in SHARDED or isinstance(strategy, FSDP2Strategy)):
        raise UserError("trainer.precision: 64-true does not go with sharded weights; set trainer.strategy to ddp")


def build_strategy(name: str, options: Distributed, num_nodes: int = 1) -> Strategy | str:
    """Build the strategy that a recipe names; `auto`, a single process, is left to Lightning.

    Args:
        name: ddp, fsdp2 (sharded over all ranks), hsdp (sharded within a node, replicated across nodes; on one node
            it is fsdp2, and the run's report says so), or auto.
        options: The recipe's.
        num_nodes: Replicas of hsdp.

    Raises:
        UserError: If the strategy is not one of these.
    """
    refuse_strategy(name)
    if name == AUTO:
        return name
    timeout = timedelta(seconds=BACKEND_PATIENCE * options.timeout_seconds)
    if name == DDP:
        return DDPStrategy(timeout=timeout, process_group_backend=options.backend, gradient_as_bucket_view=True)
    return FSDP2Strategy(
        replicas=num_nodes if name == HSDP else 1,
        cpu_offload=options.cpu_offload,
        reshard_after_forward=options.reshard_after_forward,
        timeout=timeout,
        backend=options.backend,
    )
