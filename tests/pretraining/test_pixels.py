import pytest
import torch
from tiny_arl import random_batch, tiny_arl

from arl_lightning.models.patches import patchify, unpatchify
from arl_lightning.objectives.adaptive_weight import adaptive_weight, last_layer_gradients
from arl_lightning.objectives.adversarial import compose, discriminator_loss, generator_loss
from arl_lightning.objectives.mim import denormalize_patches, normalize_patches, reconstruction_loss
from arl_lightning.pretraining.options import Adversarial, Reconstruction
from arl_lightning.pretraining.pixels import pixel_losses

GRID, PATCH = (4, 4), 8


@pytest.fixture
def module():
    module = tiny_arl()
    with torch.no_grad():  # a decoder whose two losses pull at its last layer alike
        module.student.decoder.last.weight.mul_(10)
    return module


@pytest.fixture
def views(module):
    return module.make_views(random_batch())


def losses_of(module, views, decoded, reconstruction=Reconstruction(), adversarial=Adversarial(), begun=True):
    images, mask, discriminator = views.global_images, views.mask, module.discriminator
    return pixel_losses(decoded, images, mask, discriminator, GRID, reconstruction, adversarial, begun)


def plain_losses(module, views, output, norm_pix_loss=False, kind="bce"):
    """Return L_MIM, L_adv(G) and L_adv(D), in the plainest way, with graphs through everything."""
    images, mask = views.global_images, views.mask
    patches = patchify(images, PATCH)
    mim = reconstruction_loss(output, normalize_patches(patches) if norm_pix_loss else patches, mask)
    pixels = denormalize_patches(output, patches) if norm_pix_loss else output
    fake = unpatchify(compose(pixels, patches, mask), GRID, PATCH)
    generator = generator_loss(module.discriminator(fake), mask, kind)
    real_logits, fake_logits = module.discriminator(images), module.discriminator(fake.detach())
    return mim, generator, discriminator_loss(real_logits, fake_logits, mask, kind)


@pytest.mark.parametrize("kind", ["bce", "hinge"])
@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_lambda_is_the_ratio_of_two_plain_gradients(module, views, norm_pix_loss, kind):
    decoded = module.student_output(views).decoded
    losses = losses_of(module, views, decoded, Reconstruction(norm_pix_loss=norm_pix_loss), Adversarial(loss=kind))
    mim, generator, discriminator = plain_losses(module, views, decoded.reconstruction, norm_pix_loss, kind)
    last = module.student.decoder.last.weight
    (mim_gradient,) = torch.autograd.grad(mim, last, retain_graph=True)
    (adversarial_gradient,) = torch.autograd.grad(generator, last, retain_graph=True)

    expected = mim_gradient.norm() / (adversarial_gradient.norm() + 1e-4)
    assert 0 < expected < 1e4
    assert losses.metrics["train/adaptive_weight"].item() == pytest.approx(expected.item(), rel=1e-10)
    for name, value in {
        "train/loss/reconstruction": mim,
        "train/loss/adversarial": generator,
        "train/loss/discriminator": discriminator,
        "train/gradient_norm/reconstruction": mim_gradient.norm(),
        "train/gradient_norm/adversarial": adversarial_gradient.norm(),
    }.items():
        assert losses.metrics[name].item() == pytest.approx(value.item(), rel=1e-10), name
        assert not losses.metrics[name].requires_grad

    # The same from gradients with respect to the output.
    by_output = [torch.autograd.grad(loss, decoded.reconstruction, retain_graph=True)[0] for loss in (mim, generator)]
    formed = last_layer_gradients(tuple(by_output), decoded.hidden)
    torch.testing.assert_close(formed, [mim_gradient, adversarial_gradient], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(adaptive_weight(*formed), expected.detach(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", ["bce", "hinge"])
@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_output_gradient_carries_both_losses(module, views, norm_pix_loss, kind):
    decoded = module.student_output(views).decoded
    losses = losses_of(module, views, decoded, Reconstruction(norm_pix_loss=norm_pix_loss), Adversarial(loss=kind))
    mim, generator, discriminator = plain_losses(module, views, decoded.reconstruction, norm_pix_loss, kind)
    weight = losses.metrics["train/adaptive_weight"]
    student = [module.student.encoder.patch_embed.proj.weight, *module.student.decoder.parameters()]
    expected = torch.autograd.grad(mim + weight * generator, student, retain_graph=True)
    surrogate = (decoded.reconstruction * losses.output_gradient).sum()
    found = torch.autograd.grad(surrogate, student, retain_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)
    parameters = list(module.discriminator.parameters())
    expected = torch.autograd.grad(discriminator, parameters, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(losses.discriminator, parameters), expected, rtol=1e-9, atol=1e-13)


def test_neither_network_learns_from_the_others_loss(module, views):
    decoded = module.student_output(views).decoded
    losses = losses_of(module, views, decoded)
    losses.discriminator.backward()
    assert all(parameter.grad is None for parameter in module.student.parameters())
    assert all(parameter.grad is not None for parameter in module.discriminator.parameters())
    module.discriminator.zero_grad(set_to_none=True)
    (decoded.reconstruction * losses.output_gradient).sum().backward()
    assert module.student.decoder.last.weight.grad.norm() > 0
    assert all(parameter.grad is None for parameter in module.discriminator.parameters())


def test_visible_patches_have_no_output_gradient(module, views):
    gradient = losses_of(module, views, module.student_output(views).decoded).output_gradient
    assert (gradient[~views.mask] == 0).all()
    assert (gradient[views.mask] != 0).any()


def test_before_its_start_the_discriminator_is_used_and_not_taught(module, views):
    decoded = module.student_output(views).decoded
    losses = losses_of(module, views, decoded, begun=False)
    mim, _, _ = plain_losses(module, views, decoded.reconstruction)
    (expected,) = torch.autograd.grad(mim, decoded.reconstruction)
    torch.testing.assert_close(losses.output_gradient, expected)
    assert losses.metrics.keys() == {"train/loss/reconstruction"}
    losses.discriminator.backward()
    assert all((parameter.grad == 0).all() for parameter in module.discriminator.parameters())


def test_without_a_discriminator_only_the_reconstruction_is_left(module, views):
    module.discriminator = None
    losses = losses_of(module, views, module.student_output(views).decoded)
    assert losses.discriminator is None
    assert losses.metrics.keys() == {"train/loss/reconstruction"}


@pytest.mark.parametrize("weighting", ["adaptive", "constant"])
def test_the_weight_option(module, views, weighting):
    decoded = module.student_output(views).decoded
    single, double = (
        losses_of(module, views, decoded, adversarial=Adversarial(weighting=weighting, weight=weight))
        for weight in (1.0, 2.0)
    )
    weights = [losses.metrics["train/adversarial_weight"].item() for losses in (single, double)]
    assert weights[1] == pytest.approx(2 * weights[0])
    if weighting == "constant":
        assert weights[0] == 1.0
    mim, _, _ = plain_losses(module, views, decoded.reconstruction)
    (mim_gradient,) = torch.autograd.grad(mim, decoded.reconstruction)
    torch.testing.assert_close(
        double.output_gradient - mim_gradient, 2 * (single.output_gradient - mim_gradient), rtol=1e-8, atol=1e-12
    )


def test_lambda_is_bounded_where_the_discriminator_is_blind(module, views):
    for parameter in module.discriminator.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        module.student.decoder.last.bias.fill_(1e3)
    losses = losses_of(module, views, module.student_output(views).decoded)
    assert losses.metrics["train/gradient_norm/reconstruction"] > 1
    assert losses.metrics["train/adaptive_weight"].item() == 1e4


def test_under_autocast_lambda_and_losses_stay_in_float32():
    module = tiny_arl().float()
    views = module.make_views(random_batch())
    exact = losses_of(module, views, module.student_output(views).decoded).metrics
    with torch.autocast("cpu", torch.bfloat16):
        decoded = module.student_output(views).decoded
        losses = losses_of(module, views, decoded)
    assert decoded.reconstruction.dtype == torch.bfloat16
    assert losses.output_gradient.dtype == losses.discriminator.dtype == torch.float32
    assert {name: value.dtype for name, value in losses.metrics.items()} == dict.fromkeys(exact, torch.float32)
    for name in ("train/adaptive_weight", "train/loss/reconstruction", "train/gradient_norm/reconstruction"):
        value = losses.metrics[name]
        assert value != value.bfloat16().float(), f"{name} is rounded"
        assert value.item() == pytest.approx(exact[name].item(), rel=0.05)


def test_colour_images():
    module = tiny_arl(encoder={"in_chans": 3})
    batch = random_batch()
    batch |= {name: batch[name].repeat(1, 1, 3, 1, 1) for name in ("global_views", "local_views")}
    views = module.make_views(batch)
    losses = losses_of(module, views, module.student_output(views).decoded)
    assert losses.output_gradient.shape == (8, 16, 3 * PATCH**2)
    assert losses.metrics["train/adaptive_weight"] > 0
