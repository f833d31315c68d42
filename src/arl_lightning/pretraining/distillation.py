"""Self-distillation put together: the teacher's targets, kept from collapsing, and Eq. 5 with its options.

Legend: B images, G global views, S student views, V visible patches, K prototypes.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from arl_lightning.models.networks import StudentOutput, TeacherOutput
from arl_lightning.objectives.precision import full_precision
from arl_lightning.objectives.self_distillation import (
    centered_probabilities,
    koleo_loss,
    patch_self_distillation_loss,
    self_distillation_loss,
    sinkhorn_probabilities,
    teacher_statistics,
    updated_center,
)
from arl_lightning.pretraining.options import SelfDistillation


class Targets(nn.Module):
    """Turns teacher logits into distributions and remembers their mean.

    The center moves only when `commit` is called: a skipped step, whose logits may not be finite, leaves it alone.

    Args:
        num_prototypes: K.
        kind: `centering` or `sinkhorn`.
        center_momentum: What stays of the center at a step.
    """

    center: Tensor

    def __init__(self, num_prototypes: int, kind: Literal["centering", "sinkhorn"], center_momentum: float) -> None:
        super().__init__()
        self.kind = kind
        self.center_momentum = center_momentum
        self.register_buffer("center", torch.zeros(num_prototypes))
        self._batch_means: list[Tensor] = []

    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Map (..., K) logits to probabilities of the same shape."""
        if self.kind == "sinkhorn":
            return sinkhorn_probabilities(logits, temperature)
        self._batch_means.append(full_precision(logits).flatten(0, -2).mean(0))
        return centered_probabilities(logits, self.center, temperature)

    def commit(self) -> None:
        """Move the center by the batches seen since the last step, of all ranks."""
        if self._batch_means:
            batch_mean = torch.stack(self._batch_means).mean(0)
            self.center.copy_(updated_center(self.center, batch_mean, self.center_momentum))
        self.discard()

    def discard(self) -> None:
        """Forget the batches seen since the last step."""
        self._batch_means.clear()


class Distillation(nn.Module):
    """Eq. 5 on class tokens; on patch tokens and with KoLeo by option.

    Args:
        options: The recipe's.
    """

    def __init__(self, options: SelfDistillation) -> None:
        super().__init__()
        self.options = options
        self.cls_targets = Targets(options.num_prototypes, options.targets, options.center_momentum)
        self.patch_targets = None
        if options.patch_weight > 0:
            self.patch_targets = Targets(options.num_prototypes, options.targets, options.center_momentum)

    def forward(
        self, student: StudentOutput, teacher: TeacherOutput, batch_size: int, temperature: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss, (), and detached metrics by log name.

        Args:
            student: Its logits, (S * B, K), global views first.
            teacher: Its logits, (G * B, K).
            batch_size: B.
            temperature: The teacher's, at this step.
        """
        options = self.options
        if student.cls_logits is None:
            raise ValueError("the student has no head: self-distillation is off")
        probabilities = self.cls_targets(teacher.cls_logits, temperature).unflatten(0, (-1, batch_size))
        logits = student.cls_logits.unflatten(0, (-1, batch_size))  # (S * B, K) -> (S, B, K)
        loss = self_distillation_loss(logits, probabilities, options.student_temperature)
        entropy, usage = teacher_statistics(probabilities)
        metrics = {
            "train/loss/self_distillation": loss.detach(),
            "train/teacher/entropy": entropy,
            "train/teacher/prototypes_used": usage,
        }
        if self.patch_targets is not None and student.patch_logits is not None and teacher.patch_logits is not None:
            targets = self.patch_targets(teacher.patch_logits, temperature)
            patch_loss = patch_self_distillation_loss(student.patch_logits, targets, options.student_temperature)
            metrics["train/loss/patch_distillation"] = patch_loss.detach()
            loss = loss + options.patch_weight * patch_loss
        if options.koleo_weight > 0:
            koleo = koleo_loss(student.cls_tokens[:batch_size])
            metrics["train/loss/koleo"] = koleo.detach()
            loss = loss + options.koleo_weight * koleo
        return loss, metrics

    def commit(self) -> None:
        """Move the centers after a step that was made."""
        for targets in filter(None, (self.cls_targets, self.patch_targets)):
            targets.commit()

    def discard(self) -> None:
        """Leave the centers alone after a step that was skipped."""
        for targets in filter(None, (self.cls_targets, self.patch_targets)):
            targets.discard()
