"""One AdamW over the student and the discriminator: named groups, each with its own rate, betas and clipping.

A single optimizer steps once a batch, which is what Lightning's step count, checkpoints and `max_steps` then mean.
After one backward it equals a generator step followed by a discriminator step on the same reconstruction, as neither
loss has a gradient with respect to the other network.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from arl_lightning.pretraining.options import Optimization
from arl_lightning.pretraining.schedules import cosine, scaled_learning_rate, warmup_cosine

STUDENT, DISCRIMINATOR = "student", "discriminator"


def build_optimizer(
    student: nn.Module, discriminator: nn.Module | None, options: Optimization, global_batch_size: int
) -> torch.optim.AdamW:
    """Build AdamW with up to four groups: either network, with and without weight decay.

    Args:
        student: Trained with `base_lr` and `betas`.
        discriminator: Trained with `discriminator_base_lr` and `discriminator_betas`; None where it is off.
        options: The recipe's.
        global_batch_size: Images of a step over all ranks; scales both rates.
    """
    groups = [*_groups(student, STUDENT)]
    if discriminator is not None:
        groups += _groups(discriminator, DISCRIMINATOR)
    # The rate is a schedule's from the first step; it must be a number before.
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    set_recipe(optimizer, options, global_batch_size)
    return optimizer


def set_recipe(optimizer: torch.optim.Optimizer, options: Optimization, global_batch_size: int) -> None:
    """Give every group its peak rate and betas; a resumed optimizer has those of the run that saved it."""
    recipe = {
        STUDENT: (options.base_lr, options.betas),
        DISCRIMINATOR: (options.discriminator_base_lr, options.discriminator_betas),
    }
    for group in optimizer.param_groups:
        base_lr, group["betas"] = recipe[group["name"]]
        group["peak_lr"] = scaled_learning_rate(base_lr, global_batch_size)


def _groups(network: nn.Module, name: str) -> Iterator[dict[str, Any]]:
    for decays in (True, False):
        parameters = [parameter for key, parameter in network.named_parameters() if _decays(key, parameter) == decays]
        yield {"params": parameters, "name": name, "decays": decays}


def _decays(key: str, parameter: nn.Parameter) -> bool:
    """Spare biases, norms, tokens and position embeddings, as is usual for vision transformers."""
    return parameter.ndim > 1 and not key.endswith(("_token", "pos_embed"))


def set_schedules(optimizer: torch.optim.Optimizer, options: Optimization, progress: float) -> None:
    """Set every group's learning rate and weight decay for the share of the run that is done."""
    weight_decay = cosine(progress, options.weight_decay, options.weight_decay_end)
    for group in optimizer.param_groups:
        peak = group["peak_lr"]
        group["lr"] = warmup_cosine(progress, options.warmup_share, peak, peak * options.min_lr_ratio)
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def clip_gradients(parameters: Iterable[nn.Parameter], maximum: float) -> Tensor:
    """Scale the gradients of one network down to a largest norm; returns the norm before, () tensor.

    Where gradients are sharded, the norm is that of all ranks' shards together.
    """
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, maximum, norm)
    # Where no parameter has a gradient, torch's norm is on the CPU, whatever the network's device.
    return norm.to(parameters[0].device)


def drop_gradients(network: nn.Module) -> None:
    """Leave a network out of the next optimizer step: AdamW passes over parameters without a gradient."""
    for parameter in network.parameters():
        parameter.grad = None
