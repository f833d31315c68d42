"""Warns when representations collapse, before a long run has been wasted.

Legend: B images, D channels.
"""

from collections import deque
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from arl_lightning.objectives.precision import full_precision

UNIFORM_ENTROPY = 0.99  # of the uniform distribution's
FEW_PROTOTYPES = 1.5
LOW_RANK = 2.0


def rank_me(features: Tensor, epsilon: float = 1e-7) -> Tensor:
    """Return RankMe, the exponential of the entropy of the normalised singular values of (B, D) features.

    Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised representations by their
    rank", ICML 2023. It lies between 1 and min(B, D).
    """
    singular = torch.linalg.svdvals(full_precision(features))
    share = singular / singular.sum() + epsilon
    return torch.special.entr(share).sum().exp()


class CollapseMonitor(pl.Callback):
    """Log `train/rank_me` over the latest class tokens and warn of the known collapses.

    Args:
        every_n_steps: Steps between two measurements.
        num_features: Latest class tokens that are measured together.
        grace_share: Share of the run in which no warning is given: every network starts out collapsed.
    """

    def __init__(self, every_n_steps: int = 100, num_features: int = 1024, grace_share: float = 0.1) -> None:
        self.every_n_steps = every_n_steps
        self.num_features = num_features
        self.grace_share = grace_share
        self._tokens: deque[Tensor] = deque()
        self._last_step = -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch's class tokens; measure and judge when it is time."""
        self._remember(outputs["cls_tokens"])
        step = trainer.global_step
        if step in (0, self._last_step) or step % self.every_n_steps != 0:
            return
        self._last_step = step
        tokens = torch.cat(list(self._tokens))
        tokens = tokens[tokens.isfinite().all(1)]  # those of a skipped step may not be, and have no singular values
        if len(tokens) == 0:
            return
        rank = rank_me(tokens)
        pl_module.log("train/rank_me", rank, batch_size=len(batch["key"]))
        if step > self.grace_share * trainer.max_steps:
            for symptom in symptoms(float(rank), {k: float(v) for k, v in trainer.callback_metrics.items()}):
                rank_zero_warn(f"step {step}: {symptom}")

    def _remember(self, tokens: Tensor) -> None:
        self._tokens.append(tokens)
        while sum(map(len, self._tokens)) - len(self._tokens[0]) >= self.num_features:
            self._tokens.popleft()


def symptoms(rank: float, metrics: dict[str, float]) -> list[str]:
    """Describe the collapses that the numbers show, each with what to change."""
    found = []
    if rank < LOW_RANK:
        found.append(f"features collapse: RankMe {rank:.2f}; lower the learning rate or raise koleo_weight")
    if metrics.get("train/teacher/entropy", 0.0) > UNIFORM_ENTROPY:
        found.append(
            "the teacher's targets are uniform (collapse): lower self_distillation.teacher_temperature or raise"
            " center_momentum"
        )
    if metrics.get("train/teacher/prototypes_used", FEW_PROTOTYPES) < FEW_PROTOTYPES:
        found.append(
            "the teacher gives every image the same prototype (collapse): raise self_distillation.teacher_temperature,"
            " lower center_momentum, or use targets: sinkhorn"
        )
    return found
