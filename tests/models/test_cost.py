import pytest
import timm
import torch

from arl_lightning.models.cost import model_cost

# ViT-B/16 at 224 pixels: 196 patches, 197 tokens, 768 channels, 12 blocks.
N, T, D, DEPTH = 196, 197, 768, 12
VIT_MACS = N * D * 16**2 * 3 + DEPTH * (12 * T * D**2 + 2 * T**2 * D)
# The anatomy MLP once an image; offsets by a depthwise 3 x 3 and a 1 x 1 to 27; one weight a channel and location.
SAMPLING_MACS = DEPTH * ((16 + D) * 896 + N * D * 9 + N * D * 27 + N * D * 9)


def cost_of(name, image_size=224, device="meta", **kwargs):
    with torch.device(device):
        return model_cost(timm.create_model(name, **kwargs), image_size)


def test_the_plain_vit_by_hand():
    cost = cost_of("vit_base_patch16_224")
    assert VIT_MACS == 17_563_060_224  # the 17.56 G of products in Table 10
    assert cost.macs == VIT_MACS
    assert cost.parameters == 86_567_656 - 769_000  # timm's count, less the head's
    assert cost.bilinear_macs == 0


def test_avit_by_hand():
    cost = cost_of("avit_base_patch16_224", in_chans=3)
    assert cost.macs == VIT_MACS + SAMPLING_MACS
    assert cost.bilinear_macs == DEPTH * N * 9 * 4 * D


@pytest.mark.parametrize("in_chans", [1, 3])
def test_avit_base_stays_within_table_10(in_chans):
    cost = cost_of("avit_base_patch16_224", in_chans=in_chans)
    assert 94e6 <= cost.parameters <= 95.5e6
    assert cost.macs <= 17.70e9


@pytest.mark.parametrize(("kernel", "group_dim"), [("depthwise", 1), ("grouped", 24), ("dense", 192)])
def test_a_kernel_costs_a_product_for_each_input_channel(kernel, group_dim):
    tiny = cost_of("avit_tiny_patch16_224", kernel=kernel, depth=2)
    plain = cost_of("avit_tiny_patch16_224", kernel="depthwise", depth=2)
    assert tiny.macs - plain.macs == 2 * N * 9 * 192 * (group_dim - 1)
    assert tiny.parameters - plain.parameters == 2 * 9 * 192 * (group_dim - 1)


def test_the_classifier_does_not_count():
    assert cost_of("avit_tiny_patch16_224") == cost_of("avit_tiny_patch16_224", num_classes=0)


def test_the_count_is_the_same_on_the_cpu():
    """The CPU's fused attention is invisible to PyTorch's counter."""
    kwargs = {"image_size": 64, "depth": 2, "img_size": 64}
    assert cost_of("avit_tiny_patch16_224", device="cpu", **kwargs) == cost_of("avit_tiny_patch16_224", **kwargs)
