import pytest
import torch
import torch.nn.functional as F

from arl_lightning.objectives.adversarial import compose, discriminator_accuracy, discriminator_loss, generator_loss

MASK = torch.tensor([[True, False, True, True], [False, True, True, True]])


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    real, fake = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    return real, fake


def test_bce_is_torchs_over_hidden_patches(logits):
    real, fake = (values[MASK] for values in logits)
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(generator_loss(logits[1], MASK), bce(fake, torch.ones_like(fake)))
    expected = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    torch.testing.assert_close(discriminator_loss(*logits, MASK), expected)


def test_hinge_by_hand():
    mask = torch.tensor([[True, True, False]])
    real, fake = torch.tensor([[0.5, 2.0, 50.0]]), torch.tensor([[-3.0, 1.0, 50.0]])
    # real: 0.5 and 0; fake: 0 and 2
    assert discriminator_loss(real, fake, mask, "hinge").item() == pytest.approx(1.25)
    assert generator_loss(fake, mask, "hinge").item() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["bce", "hinge"])
def test_visible_patches_do_not_count(logits, kind):
    real, fake = (values.clone().requires_grad_() for values in logits)
    loss = generator_loss(fake, MASK, kind) + discriminator_loss(real, fake, MASK, kind)
    for gradient in torch.autograd.grad(loss, (real, fake)):
        assert (gradient[~MASK] == 0).all()
    moved = [torch.where(MASK, values, 1000.0) for values in logits]
    assert torch.equal(generator_loss(moved[1], MASK, kind) + discriminator_loss(*moved, MASK, kind), loss)


def test_the_generator_keeps_its_gradient_where_the_discriminator_is_sure():
    fake = torch.full((1, 4), -50.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(generator_loss(fake, MASK[:1]), fake)
    torch.testing.assert_close(gradient[0, 0].item(), -1 / 3)  # log(1 - D) instead would saturate at 0


def test_composing_pastes_hidden_patches_only():
    reconstruction, patches = torch.full((2, 4, 3), -1.0), torch.arange(24.0).view(2, 4, 3)
    composed = compose(reconstruction, patches, MASK)
    assert (composed[MASK] == -1).all()
    assert torch.equal(composed[~MASK], patches[~MASK])


def test_accuracies_by_hand():
    mask = torch.tensor([[True, True, True, True, False]])
    real, fake = torch.tensor([[1.0, 2.0, -1.0, 3.0, -9.0]]), torch.tensor([[-1.0, 2.0, 1.0, 3.0, 9.0]])
    real_accuracy, fake_accuracy = discriminator_accuracy(real, fake, mask)
    assert (real_accuracy.item(), fake_accuracy.item()) == (0.75, 0.25)
