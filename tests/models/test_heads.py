import pytest
import torch

from arl_lightning.models.heads import DINOHead, PrototypeLayer


@pytest.fixture
def head():
    torch.manual_seed(0)
    return DINOHead(12, num_prototypes=20, hidden_dim=16, bottleneck_dim=8)


def test_cosines_by_hand():
    layer = PrototypeLayer(2, 3)
    layer.weight.data = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-3.0, -4.0]])
    torch.testing.assert_close(layer(torch.tensor([[6.0, 8.0]])), torch.tensor([[0.6, 0.8, -1.0]]))


def test_the_prototypes_lengths_change_nothing(head):
    tokens = torch.randn(3, 12)
    before = head(tokens)
    head.last.weight.data *= torch.linspace(0.1, 50, 20)[:, None]
    torch.testing.assert_close(head(tokens), before)


def test_the_prototypes_gradient_is_across_their_length(head):
    head(torch.randn(3, 12)).square().sum().backward()
    along = (head.last.weight * head.last.weight.grad).sum(-1)
    assert head.last.weight.grad.abs().max() > 0.1
    torch.testing.assert_close(along, torch.zeros(20), atol=1e-5, rtol=0)


def test_logits_are_cosines_whatever_the_input(head):
    logits = head(1e4 * torch.randn(50, 12))
    assert -1 - 1e-6 <= logits.min() < -0.1
    assert 0.1 < logits.max() <= 1 + 1e-6


def test_any_leading_dimensions(head):
    tokens = torch.randn(2, 5, 12)
    logits = head(tokens)
    assert logits.shape == (2, 5, 20)
    torch.testing.assert_close(logits[1, 3], head(tokens[1, 3]))


def test_default_sizes_are_dinos():
    with torch.device("meta"):
        head = DINOHead(768)
    assert [tuple(layer.weight.shape) for layer in head.mlp[::2]] == [(2048, 768), (2048, 2048), (256, 2048)]
    assert head.last.weight.shape == (65536, 256)
