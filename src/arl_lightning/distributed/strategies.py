"""Lightning's strategies by the names of a recipe."""

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy, Strategy

from arl_lightning.distributed.fsdp2 import FSDP2Strategy
from arl_lightning.distributed.options import Distributed
from arl_lightning.errors import UserError

DDP, FSDP2, HSDP = "ddp", "fsdp2", "hsdp"
SINGLE_DEVICE = ("auto", "single_device")  # left to Lightning
STRATEGIES = ("auto", DDP, FSDP2, HSDP)
BACKEND_PATIENCE = 4  # times the watchdog's limit, which is the first to speak: it knows who is missing
REFUSED = {
    "fsdp": "does not synchronise gradients of a loss built of several networks' calls (Lightning issues 19626, 19685)",
    "deepspeed": "takes one network and one loss",
    "model_parallel": "splits no layer of these networks",
}


def build_strategy(name: str, options: Distributed, num_nodes: int = 1) -> Strategy | str:
    """Build the strategy that a recipe names; a single device's names are returned as they are.

    Args:
        name: ddp, fsdp2 (sharded over all ranks), hsdp (sharded within a node, replicated across nodes), or auto.
        options: The recipe's.
        num_nodes: Replicas of hsdp.

    Raises:
        UserError: If the strategy is not one of these, or the options do not fit it.
    """
    if name in SINGLE_DEVICE:
        return name
    if name not in STRATEGIES:
        raise UserError(f"trainer.strategy: {_why_not(name)}")
    timeout = timedelta(seconds=BACKEND_PATIENCE * options.timeout_seconds)
    if name == DDP:
        if options.cpu_offload:
            raise UserError("distributed.cpu_offload: needs sharded weights; set trainer.strategy to fsdp2 or hsdp")
        return DDPStrategy(timeout=timeout, process_group_backend=options.backend, gradient_as_bucket_view=True)
    return FSDP2Strategy(
        replicas=num_nodes if name == HSDP else 1,
        cpu_offload=options.cpu_offload,
        reshard_after_forward=options.reshard_after_forward,
        timeout=timeout,
        backend=options.backend,
    )


def _why_not(name: str) -> str:
    for start, reason in REFUSED.items():
        if name.startswith(start):
            return f"{name} {reason}; use {FSDP2}"
    return f"'{name}' is not one of {', '.join(STRATEGIES)}"
