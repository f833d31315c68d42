"""Self-distillation across views (paper Eq. 5) and what keeps it from collapsing.

Legend: B images, S student views, T teacher views (the first T of the S), V visible patches, K prototypes,
D channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from arl_lightning.distributed.collectives import all_reduce_max, all_reduce_mean, all_reduce_sum
from arl_lightning.objectives.precision import autocast_off, full_precision


def self_distillation_loss(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """Eq. 5: `-sum_i z_t^(i) log z_s^(i)` over prototypes, averaged over images and pairs of unlike crops.

    The paper calls Eq. 5's N "the number of output tokens"; a sum over a distribution needs the prototypes.

    Args:
        student_logits: (S, B, K).
        teacher_probabilities: (T, B, K), no gradient passes into them.
        temperature: The student's.

    Raises:
        ValueError: If there is no pair of unlike crops.
    """
    num_student, batch = student_logits.shape[:2]
    num_teacher = len(teacher_probabilities)
    num_pairs = num_teacher * num_student - min(num_teacher, num_student)
    if num_pairs == 0:
        raise ValueError("self-distillation needs two global views, or one and a local view")
    log_student = _log_softmax(student_logits, temperature)
    with autocast_off(log_student):
        pairs = torch.einsum("tbk,sbk->ts", teacher_probabilities.detach(), log_student)
    unlike = ~torch.eye(num_teacher, num_student, dtype=torch.bool, device=pairs.device)
    return -(pairs * unlike).sum() / (num_pairs * batch)


def patch_self_distillation_loss(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """Eq. 5 on patch tokens (an option, as iBOT): the same patch, seen by the student through the mask.

    Sparse encoding has no tokens at hidden positions, so the visible ones are compared: the student must infer the
    context that the teacher sees.

    Args:
        student_logits: (B, V, K).
        teacher_probabilities: (B, V, K), no gradient passes into them.
        temperature: The student's.
    """
    return -(teacher_probabilities.detach() * _log_softmax(student_logits, temperature)).sum(-1).mean()


def centered_probabilities(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Turn (..., K) teacher logits into a sharpened distribution about the (K,) center."""
    return full_precision(logits).sub(center).div(temperature).softmax(-1)


def updated_center(center: Tensor, batch_mean: Tensor, momentum: float) -> Tensor:
    """Return the running mean of teacher logits.

    Args:
        center: (K,) so far.
        batch_mean: (K,) mean logits of this rank's batch; averaged over the ranks here.
        momentum: What stays of the center.
    """
    return center.lerp(all_reduce_mean(batch_mean).to(center.dtype), 1 - momentum)


def sinkhorn_probabilities(logits: Tensor, temperature: float, num_iterations: int = 3) -> Tensor:
    """Turn (..., K) teacher logits into assignments that use all prototypes alike over the global batch.

    Sinkhorn-Knopp: rows and columns are scaled in turn, in the logarithm, so that no exponential overflows.
    """
    log_assignment = full_precision(logits).flatten(0, -2) / temperature  # (..., K) -> (samples, K)
    for _ in range(num_iterations):
        log_assignment = log_assignment - _global_logsumexp(log_assignment)  # every prototype the same mass
        log_assignment = log_assignment - log_assignment.logsumexp(1, keepdim=True)  # every sample a distribution
    return log_assignment.exp().view_as(logits)


def _global_logsumexp(values: Tensor) -> Tensor:
    """Return the (K,) logarithm of the sum of exponentials over the samples, (samples, K), of all ranks."""
    peak = all_reduce_max(values.amax(0))
    return all_reduce_sum((values - peak).exp().sum(0)).log() + peak


def teacher_statistics(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Measure how far (..., K) targets are from the two collapses.

    Returns:
        The mean entropy of a target over that of the uniform distribution (near 1: every target uniform), and the
        effective number of prototypes, exp of the mean target's entropy (near 1: every target the same one).
    """
    flat = probabilities.flatten(0, -2)
    entropy = torch.special.entr(flat).sum(-1).mean()
    usage = torch.special.entr(flat.mean(0)).sum().exp()
    return entropy / math.log(flat.shape[-1]), usage


def koleo_loss(features: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Spread (B, D) features: minus the mean log distance to the nearest neighbour on the unit sphere (an option)."""
    normalized = F.normalize(full_precision(features), dim=-1)
    with autocast_off(normalized):
        similarity = (normalized @ normalized.T).fill_diagonal_(-1)
    nearest = similarity.detach().argmax(1)
    return -((normalized - normalized[nearest]).norm(dim=-1) + epsilon).log().mean()


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return (full_precision(logits) / temperature).log_softmax(-1)
