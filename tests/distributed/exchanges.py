"""Counts how often gradients and weights travel between ranks."""

from collections import Counter
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from layouts import DDP_2, FSDP2, OPTIONS, Layout
from tiny_arl import fit, part, random_batch, tiny_arl
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter
from torch.nn.parallel import DistributedDataParallel

from arl_lightning.distributed.options import Distributed

NUM_COUNTED_IMAGES, NUM_COUNTED_STEPS = 4, 3
# Before the discriminator starts, while it rests and after that; masked and full passes of the global views.
CASES: dict[str, dict[str, Any]] = {
    "one batch a step": {
        "adversarial": {"start_share": 0.3, "update_every": 2},
        "self_distillation": {"student_view": "full"},
    },
    "three batches a step": {
        "optimization": {"accumulate_batches": 3},
        "self_distillation": {"patch_weight": 0.5},
    },
}
KEPT = "weights kept for the backward pass"
WEIGHTS_KEPT = replace(OPTIONS, reshard_after_forward=False)


class Reductions(pl.Callback):
    """Counts by the name of a parameter how often DDP reduces its gradient."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_train_start(self, trainer, pl_module) -> None:
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}

        def count(group: Any, bucket: torch.distributed.GradBucket) -> torch.futures.Future[Tensor]:
            self.counts.update(names[id(parameter)] for parameter in bucket.parameters())
            return allreduce_hook(group, bucket)

        wrapped = trainer.strategy.model
        assert isinstance(wrapped, DistributedDataParallel)
        assert not wrapped.find_unused_parameters
        wrapped.register_comm_hook(None, count)


class Exchanges(pl.Callback):
    """Counts by the name of a sharded module how often its weights are gathered and its gradients reduced.

    `types` are those of what travels.
    """

    def __init__(self) -> None:
        self.gathered: Counter[str] = Counter()
        self.reduced: Counter[str] = Counter()
        self.types: dict[tuple[str, str], torch.dtype] = {}

    def on_train_start(self, trainer, pl_module) -> None:
        for name, module in pl_module.named_modules():
            if isinstance(module, FSDPModule):
                module.set_custom_all_gather(Counted(DefaultAllGather(), name, self.gathered, self.types, "gathered"))
                module.set_custom_reduce_scatter(
                    Counted(DefaultReduceScatter(), name, self.reduced, self.types, "reduced")
                )


class Counted:
    """An exchange of FSDP2 that counts its calls and notes the type of what travels."""

    def __init__(
        self, exchange: Any, name: str, counts: Counter[str], types: dict[tuple[str, str], torch.dtype], kind: str
    ) -> None:
        self.exchange, self.name, self.counts = exchange, name, counts
        self.types, self.kind = types, kind
        self.allocate = exchange.allocate

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, *arguments: Any, **named: Any) -> Any:
        self.counts[self.name] += 1
        self.types[self.name, self.kind] = input_tensor.dtype
        return self.exchange(output_tensor, input_tensor, *arguments, **named)


def count_exchanges(layout: Layout, rank: int) -> dict[str, dict[str, Any]]:
    """Count in all cases, on one of two ranks."""
    counted = {name: _count(layout, options, rank) for name, options in CASES.items()}
    return counted | ({KEPT: _count(layout, {}, rank, WEIGHTS_KEPT)} if layout == FSDP2 else {})


def _count(layout: Layout, options: dict[str, Any], rank: int, distributed: Distributed = OPTIONS) -> dict[str, Any]:
    num_batches = NUM_COUNTED_STEPS * options.get("optimization", {}).get("accumulate_batches", 1)
    half = NUM_COUNTED_IMAGES // 2
    batches = [
        part(random_batch(NUM_COUNTED_IMAGES, seed), rank * half, (rank + 1) * half) for seed in range(num_batches)
    ]
    module = tiny_arl(half, **options)
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    counter = Reductions() if layout == DDP_2 else Exchanges()
    fit(module, batches, NUM_COUNTED_STEPS, [counter], **layout.trainer_arguments(distributed))
    return {"trained": trained, "batches": num_batches} | {
        name: dict(value) for name, value in vars(counter).items() if isinstance(value, Counter)
    }
