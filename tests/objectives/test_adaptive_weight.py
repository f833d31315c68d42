import pytest
import torch

from arl_lightning.objectives.adaptive_weight import adaptive_weight, last_layer_gradients


def test_eq_6_by_hand():
    weight = adaptive_weight(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    assert weight.item() == pytest.approx(5 / 2.0001)


def test_a_vanishing_adversarial_gradient_is_bounded():
    ones, zeros = torch.ones(10, 10), torch.zeros(10, 10)
    assert adaptive_weight(ones, zeros).item() == 1e4  # 10 / epsilon is 1e5
    assert adaptive_weight(ones, zeros, maximum=7.0).item() == 7.0
    assert adaptive_weight(ones / 100, zeros).item() == pytest.approx(1e3)
    assert adaptive_weight(zeros, zeros).item() == 0


def test_the_weight_is_detached():
    gradients = torch.ones(2, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    assert not adaptive_weight(*gradients).requires_grad


def test_gradients_of_a_linear_layer_are_autograds():
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(5, 3, dtype=torch.float64)
    hidden = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    losses = (lambda output: output.square().mean(), lambda output: output.sin().sum())
    output = layer(hidden)
    cut = output.detach().requires_grad_()
    by_output = tuple(torch.autograd.grad(loss(cut), cut)[0] for loss in losses)
    formed = last_layer_gradients(by_output, hidden)
    for gradient, loss in zip(formed, losses, strict=True):
        (expected,) = torch.autograd.grad(loss(output), layer.weight, retain_graph=True)
        torch.testing.assert_close(gradient, expected)
        assert not gradient.requires_grad


def test_autocast_does_not_round_the_gradients():
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(2, 4, 3, generator=generator)
    hidden = torch.randn(2, 4, 5, generator=generator).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        (formed,) = last_layer_gradients((gradient,), hidden)
        weight = adaptive_weight(formed, formed)
    expected = gradient.flatten(0, 1).double().T @ hidden.flatten(0, 1).double()
    assert formed.dtype == weight.dtype == torch.float32
    torch.testing.assert_close(formed.double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(formed, formed.bfloat16().float())
