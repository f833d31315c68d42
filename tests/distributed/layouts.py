"""Small runs on several ranks of this machine: which ranks, how weights lie on them, what comes out."""

from dataclasses import dataclass
from typing import Any

from lightning.pytorch.plugins import DoublePrecision
from lightning.pytorch.strategies import DDPStrategy
from several_ranks import spawn as spawn  # for those who import layouts
from torch import Tensor, nn

from arl_lightning.distributed.options import Distributed
from arl_lightning.distributed.strategies import build_strategy

OPTIONS = Distributed(timeout_seconds=60)
BUCKET = 0.02  # megabytes of float64: less than a block, so that gradients travel in several buckets


@dataclass(frozen=True)
class Layout:
    """A strategy of the recipe's and a number of ranks; hsdp takes half of them for a node."""

    strategy: str
    world_size: int

    def __str__(self) -> str:
        return f"{self.strategy} x {self.world_size}"

    def trainer_arguments(self, options: Distributed = OPTIONS) -> dict[str, Any]:
        """Return the Trainer's arguments, in float64."""
        if self.world_size == 1:
            return {}
        strategy = build_strategy(self.strategy, options, num_nodes=2)
        arguments = {"strategy": strategy, "devices": self.world_size, "use_distributed_sampler": False}
        if isinstance(strategy, DDPStrategy):
            strategy._ddp_kwargs["bucket_cap_mb"] = BUCKET
        else:  # Lightning offers float64 with sharded weights as a plugin only
            arguments |= {"precision": None, "plugins": [DoublePrecision()]}
        return arguments


SINGLE, DDP_2, DDP_4 = Layout("auto", 1), Layout("ddp", 2), Layout("ddp", 4)
FSDP2, HSDP = Layout("fsdp2", 2), Layout("hsdp", 4)


def whole(module: nn.Module) -> dict[str, Tensor]:
    """Return weights and buffers, put together where they are sharded; on all ranks at once."""
    state = module.state_dict()
    return {
        name: (each.full_tensor() if hasattr(each, "full_tensor") else each).clone() for name, each in state.items()
    }
