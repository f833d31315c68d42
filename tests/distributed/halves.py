"""Mixed precision on CPUs, taking the paths of GPUs."""

from contextlib import ExitStack
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from exchanges import Exchanges
from layouts import FSDP2, Layout, whole
from tiny_arl import fit, part, random_batch, tiny_arl
from torch import Tensor

from arl_lightning.pretraining import build

NUM_IMAGES, NUM_STEPS = 8, 3


class Tokens(pl.Callback):
    """Notes the types of the tokens that the student's blocks are given, and of what their norms scale with."""

    def __init__(self) -> None:
        self.tokens: set[torch.dtype] = set()
        self.weights: set[torch.dtype] = set()

    def on_train_start(self, trainer, pl_module) -> None:
        for block in pl_module.student.encoder.blocks:
            block.norm1.register_forward_pre_hook(self._note)

    def _note(self, norm: torch.nn.Module, arguments: tuple[Tensor]) -> None:
        self.tokens.add(arguments[0].dtype)
        self.weights.add(norm.weight.dtype)


layer_norm_of_cpus = F.layer_norm


def layer_norm_of_gpus(images: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """Compute in float32 whatever comes, as CUDA's autocast does."""
    scale, shift = (None if each is None else each.float() for each in (weight, bias))
    with torch.autocast("cpu", enabled=False):
        return layer_norm_of_cpus(images.float(), shape, scale, shift, eps)


def train_in_halves(layout: Layout, rank: int) -> dict[str, Any]:
    """Train in bf16-mixed on a rank's part of every batch, with blocks that are gathered in bfloat16."""
    share = NUM_IMAGES // layout.world_size
    batches = [part(random_batch(NUM_IMAGES, seed), rank * share, (rank + 1) * share) for seed in range(NUM_STEPS)]
    module = tiny_arl(share, optimization={"base_lr": 0.01, "discriminator_base_lr": 0.01}).float()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    exchanges, tokens = Exchanges(), Tokens()
    more = {**layout.trainer_arguments(), "precision": "bf16-mixed", "plugins": None}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(F, "layer_norm", layer_norm_of_gpus))
        if layout == FSDP2:
            stack.enter_context(mock.patch.object(build, "shard_network", _in_halves(build.shard_network)))
        fit(module, batches, NUM_STEPS, [exchanges, tokens], **more)
    return {
        "start": start,
        "weights": whole(module),
        "kept in": {name: parameter.dtype for name, parameter in module.named_parameters()},
        "travels in": exchanges.types,
        "tokens": list(tokens.tokens),
        "norms": list(tokens.weights),
    }


def _in_halves(shard_network: Any) -> Any:
    return lambda *networks, **options: shard_network(*networks, **{**options, "half": torch.bfloat16})
