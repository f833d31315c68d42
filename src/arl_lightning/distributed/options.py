"""The recipe keys below `distributed:`."""

from dataclasses import dataclass

from arl_lightning.errors import UserError


@dataclass(frozen=True)
class Distributed:
    """How the ranks of a run share weights and exchange gradients.

    Args:
        cpu_offload: Keep sharded weights, gradients and optimizer state in the host's memory (fsdp2 and hsdp on GPUs).
        reshard_after_forward: Free a block's gathered weights until the backward pass, which gathers them again; off
            keeps them, for more memory and less communication (fsdp2 and hsdp).
        ordered_sum: Sum gradients in the order of the ranks, so that the bits do not depend on how they are packed
            (ddp); null: on CPUs.
        timeout_seconds: How long a step, a batch of validation or the wait for data may take on any rank, until the run
            ends and says whom it waits for; three times as long for the first step and for saving.
        backend: torch's process group backend; null: nccl on GPUs, gloo on CPUs.
    """

    cpu_offload: bool = False
    reshard_after_forward: bool = True
    ordered_sum: bool | None = None
    timeout_seconds: float = 600.0
    backend: str | None = None

    def __post_init__(self) -> None:
        if self.timeout_seconds <= 0:
            raise UserError(f"distributed.timeout_seconds: {self.timeout_seconds} must be above 0")
