import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn

from arl_lightning.models.discriminator import PatchDiscriminator
from arl_lightning.models.patches import unpatchify

PATCH_SIZES = (8, 14, 16)


def discriminator(patch_size: int, **kwargs) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(patch_size, width=8, **kwargs).eval()


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
@pytest.mark.parametrize("in_chans", [1, 3])
def test_one_logit_a_patch(patch_size, in_chans):
    image = torch.randn(2, in_chans, 3 * patch_size, 4 * patch_size)
    assert discriminator(patch_size, in_chans=in_chans)(image).shape == (2, 12)


def averaging(patch_size: int) -> nn.Sequential:
    """Make every convolution an average: a logit becomes the mean of what it sees, the centre weighing most."""
    layers = discriminator(patch_size).layers
    for module in layers:
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            nn.init.zeros_(module.bias)
    return nn.Sequential(*(module for module in layers if not isinstance(module, LayerNorm2d)))


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_a_changed_patch_moves_its_own_logit_most(patch_size):
    """On a grid of 3 x 4, every patch in turn: the logits stand in the order of the patches, row by row."""
    network = discriminator(patch_size)
    network.layers = averaging(patch_size)
    for index in range(12):
        patches = torch.zeros(1, 12, patch_size**2)
        patches[:, index] = 1
        moved = network(unpatchify(patches, (3, 4), patch_size))[0]
        assert moved.argmax() == index
        assert moved[index] > 1.5 * moved.sort().values[-2]


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_a_logit_sees_its_patch_and_a_margin(patch_size):
    image = torch.randn(1, 1, 5 * patch_size, 5 * patch_size, requires_grad=True)
    discriminator(patch_size)(image)[0, 12].backward()
    seen = image.grad[0, 0] != 0
    centre = slice(2 * patch_size, 3 * patch_size)
    assert seen[centre, centre].all()
    assert not seen[:patch_size].any()
    assert not seen[:, 4 * patch_size :].any()


@pytest.mark.parametrize("training", [True, False])
def test_an_images_logits_do_not_depend_on_its_batch(training):
    network = discriminator(16).train(training)
    images = torch.randn(3, 1, 32, 32)
    companions = torch.cat((images[:1], 100 * torch.randn(2, 1, 32, 32)))
    torch.testing.assert_close(network(images)[0], network(companions)[0])
    torch.testing.assert_close(network(images)[0], network(images[:1])[0])


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_nothing_is_normalised_over_the_batch(patch_size):
    network = discriminator(patch_size)
    assert not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in network.modules())
    assert not list(network.buffers())


def test_layers_by_hand():
    """Patches of 16 take four strides of 2, their channels doubled up to eight times the first's."""
    with torch.device("meta"):
        network = PatchDiscriminator(16, width=64)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [(module.out_channels, module.stride[0]) for module in convolutions] == [
        (64, 2), (128, 2), (256, 2), (512, 2), (1, 1),
    ]  # fmt: skip
