import math

import pytest
import torch

from arl_lightning.objectives.self_distillation import (
    centered_probabilities,
    koleo_loss,
    patch_self_distillation_loss,
    self_distillation_loss,
    sinkhorn_probabilities,
    teacher_statistics,
    updated_center,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("num_teacher", "num_student"), [(2, 4), (2, 2), (1, 3)])
def test_eq_5_is_the_mean_cross_entropy_of_unlike_crops(num_teacher, num_student):
    logits, targets = normal(num_student, 3, 5), normal(num_teacher, 3, 5, seed=1).softmax(-1)
    terms = []
    for t in range(num_teacher):
        for s in range(num_student):
            for b in range(3):
                if t == s:
                    continue
                exponentials = [math.exp(float(logits[s, b, k]) / 0.1) for k in range(5)]
                log_student = [math.log(value / sum(exponentials)) for value in exponentials]
                terms.append(-sum(float(targets[t, b, k]) * log_student[k] for k in range(5)))
    assert self_distillation_loss(logits, targets, 0.1).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_a_view_is_not_compared_with_itself():
    logits, targets = normal(2, 3, 5).requires_grad_(), normal(2, 3, 5, seed=1).softmax(-1)
    (before,) = torch.autograd.grad(self_distillation_loss(logits, targets, 0.1), logits)
    targets[0] = targets[0].roll(1, -1)
    (after,) = torch.autograd.grad(self_distillation_loss(logits, targets, 0.1), logits)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("loss", [self_distillation_loss, patch_self_distillation_loss])
def test_no_gradient_reaches_the_teacher(loss):
    logits, targets = normal(2, 3, 5).requires_grad_(), normal(2, 3, 5, seed=1).softmax(-1).requires_grad_()
    loss(logits, targets, 0.1).backward()
    assert targets.grad is None
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", [self_distillation_loss, patch_self_distillation_loss])
def test_half_precision_logits_give_a_float32_loss(loss):
    value = loss(normal(2, 3, 5).bfloat16(), normal(2, 3, 5, seed=1).softmax(-1).float(), 0.1)
    assert value.dtype == torch.float32


def test_a_single_view_is_refused():
    with pytest.raises(ValueError, match="two global views, or one and a local view"):
        self_distillation_loss(normal(1, 3, 5), normal(1, 3, 5).softmax(-1), 0.1)


def test_the_patch_loss_averages_over_images_and_patches():
    logits, targets = normal(2, 4, 5), normal(2, 4, 5, seed=1).softmax(-1)
    rows = zip(logits.view(-1, 5), targets.view(-1, 5), strict=True)
    terms = [-(target * (row / 0.1).log_softmax(0)).sum().item() for row, target in rows]
    assert patch_self_distillation_loss(logits, targets, 0.1).item() == pytest.approx(sum(terms) / 8, rel=1e-12)


def test_centering_by_hand():
    # (logits - center) / temperature = log 1, log 3
    logits, center = torch.tensor([[0.5, 0.5 + 0.1 * math.log(3) + 1.0]]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(centered_probabilities(logits, center, 0.1), torch.tensor([[0.25, 0.75]]))


def test_the_center_is_a_running_mean():
    center = updated_center(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -8.0]), 0.9)
    torch.testing.assert_close(center, torch.tensor([1.2, 1.0]))


def test_sinkhorn_scales_columns_and_rows_in_turn():
    logits = normal(6, 4)
    plain = (logits / 0.5).exp()
    for _ in range(3):
        plain = plain / plain.sum(0, keepdim=True)
        plain = plain / plain.sum(1, keepdim=True)
    torch.testing.assert_close(sinkhorn_probabilities(logits, 0.5), plain)
    torch.testing.assert_close(sinkhorn_probabilities(logits.view(2, 3, 4), 0.5), plain.view(2, 3, 4))


def test_sinkhorn_rows_are_distributions_and_prototypes_are_used_alike():
    logits = normal(12, 4) + torch.tensor([5.0, 0.0, 0.0, 0.0])  # without balance all would choose the first
    balanced = sinkhorn_probabilities(logits, 0.5, num_iterations=100)
    torch.testing.assert_close(balanced.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(balanced.sum(0), torch.full((4,), 3.0, dtype=torch.float64))


def test_sinkhorn_survives_large_logits():
    assignment = sinkhorn_probabilities(normal(6, 4).float() * 1000, 0.04)
    assert torch.isfinite(assignment).all()
    torch.testing.assert_close(assignment.sum(1), torch.ones(6))


@pytest.mark.parametrize(
    ("targets", "entropy", "usage"),
    [
        (torch.full((6, 4), 0.25), 1.0, 4.0),  # every target uniform
        (torch.eye(4)[[2] * 6], 0.0, 1.0),  # every target the same prototype
        (torch.eye(4), 0.0, 4.0),  # sharp and varied
        (torch.eye(4)[[0, 1]], 0.0, 2.0),
    ],
)
def test_teacher_statistics_tell_the_collapses(targets, entropy, usage):
    found = teacher_statistics(targets.unflatten(0, (2, -1)))
    assert (found[0].item(), found[1].item()) == (pytest.approx(entropy), pytest.approx(usage))


def test_koleo_by_hand():
    # Directions of 0, 60 and 180 degrees: nearest distances 1, 1 and sqrt(3), whatever the lengths.
    features = torch.tensor([[2.0, 0.0], [0.25, 0.25 * math.sqrt(3)], [-5.0, 0.0]], dtype=torch.float64)
    assert koleo_loss(features).item() == pytest.approx(-math.log(3) / 6, abs=1e-7)


def test_koleo_pushes_neighbours_apart():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(koleo_loss(features), features)
    assert gradient[0, 1] > 0 > gradient[1, 1]  # descent moves the first down, the second up
