"""Optimizers and learning rates of the downstream protocols (appendix B)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from arl_lightning.downstream.options import Optimization

REFERENCE_BATCH = 256  # of which a scaled base learning rate speaks
NO_DECAY = ("pos_embed", "cls_token", "reg_token")


def peak_learning_rate(options: Optimization, global_batch: int) -> float:
    """Return the base learning rate, scaled by the images of one step where the recipe says so."""
    return options.base_lr * global_batch / REFERENCE_BATCH if options.scale_lr else options.base_lr


def parameter_groups(encoder: nn.Module | None, head: nn.Module, options: Optimization) -> list[dict[str, Any]]:
    """Group trained parameters by block and by weight decay.

    Args:
        encoder: timm's, None where it is frozen; block i of n has the rate times `layer_decay ** (n - i)`, the
            embedding `layer_decay ** n`.
        head: What stands on it, at the full rate.
        options: The recipe's.

    Returns:
        Groups with `lr_scale`, which `configure` multiplies the rate with.
    """
    groups: list[dict[str, Any]] = []
    if encoder is not None:
        groups = param_groups_layer_decay(encoder, options.weight_decay, NO_DECAY, layer_decay=options.layer_decay)
    for decays in (True, False):
        params = [p for p in head.parameters() if p.requires_grad and (p.ndim > 1) == decays]
        if params:
            groups.append({"params": params, "lr_scale": 1.0, "weight_decay": options.weight_decay if decays else 0.0})
    return groups


def configure(
    groups: list[dict[str, Any]], options: Optimization, peak: float, steps_per_epoch: int
) -> Mapping[str, Any]:
    """Return optimizer and schedule as Lightning takes them; the schedule is stepped after every batch.

    Raises:
        ValueError: If the optimizer takes no steps.
    """
    for group in groups:
        group["lr"] = peak * group.pop("lr_scale", 1.0)
    optimizer: torch.optim.Optimizer
    if options.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=peak, momentum=options.momentum)
    elif options.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=peak, betas=options.betas)
    else:
        raise ValueError(f"optimizer {options.optimizer}: takes no steps along a gradient")
    warmup = round(options.warmup_epochs * steps_per_epoch)
    total = options.epochs * steps_per_epoch

    def factor(step: int) -> float:
        return learning_rate_factor(step, warmup, total, options.min_lr_ratio)

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def learning_rate_factor(step: int, warmup: int, total: int, min_ratio: float) -> float:
    """Rise linearly over `warmup` steps, then fall along a half cosine to `min_ratio` at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * share))
