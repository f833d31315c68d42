"""The recipe keys below `distributed:`."""

from dataclasses import dataclass
from typing import Literal

from arl_lightning.errors import UserError

LEAST_SECONDS, MOST_SECONDS = 1.0, 7 * 24 * 3600.0


@dataclass(frozen=True)
class Distributed:
    """How the ranks of a run share weights and exchange gradients.

    Args:
        cpu_offload: Keep sharded weights, gradients and optimizer state in the host's memory (fsdp2 and hsdp on GPUs).
        reshard_after_forward: Free a block's gathered weights until the backward pass, which gathers them again; off
            keeps them, for more memory and less communication (fsdp2 and hsdp).
        ordered_sum: Sum gradients in the order of the ranks, so that the bits do not depend on how they are packed
            (ddp, and without an effect elsewhere: the bits of sharded gradients are fixed); null: on CPUs.
        timeout_seconds: How long a step, a batch of validation or the wait for data may take on any rank, until the run
            ends and says whom it waits for; three times as long for the first step and for saving. From 1 s to a week.
        backend: torch's process group backend; null: nccl on GPUs, gloo on CPUs, both where
            sharded weights are offloaded.

    Raises:
        UserError: If a value cannot be used, whatever the others are.
    """

    cpu_offload: bool = False
    reshard_after_forward: bool = True
    ordered_sum: bool | None = None
    timeout_seconds: float = 600.0
    backend: Literal["nccl", "gloo", "cuda:nccl,cpu:gloo"] | None = None

    def __post_init__(self) -> None:
        if not LEAST_SECONDS <= self.timeout_seconds <= MOST_SECONDS:
            raise UserError(
                f"distributed.timeout_seconds: {self.timeout_seconds:g} must lie between {LEAST_SECONDS:.0f} and"
                f" {MOST_SECONDS:.0f}"
            )
