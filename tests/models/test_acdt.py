import pytest
import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import nn

from arl_lightning.models.acdt import ACDTBlock, AnatomyConditionedSampling, AnatomyEmbedding, DeformableAttention
from arl_lightning.models.sampling import TokenLayout

DIM, NUM_ANATOMIES = 24, 4
LAYOUT = TokenLayout(3, 4)


def randomised(layer: AnatomyConditionedSampling) -> AnatomyConditionedSampling:
    torch.nn.init.normal_(layer.offset_pointwise.weight, std=3 * DIM**-0.5)
    torch.nn.init.normal_(layer.offset_pointwise.bias)
    torch.nn.init.normal_(layer.anatomy.fc2.weight, std=DIM**-0.5)
    torch.nn.init.normal_(layer.weight)
    return layer


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return randomised(AnatomyConditionedSampling(DIM, NUM_ANATOMIES))


@pytest.fixture
def tokens():
    return torch.randn(2, 12, DIM, generator=torch.Generator().manual_seed(1))


def one_hot(*anatomy: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(anatomy), NUM_ANATOMIES + 1)[:, :-1].float()


def test_no_anatomy_embeds_to_exactly_zero():
    embedding = AnatomyEmbedding(NUM_ANATOMIES, DIM)
    assert embedding(one_hot(NUM_ANATOMIES)).abs().max() == 0
    assert embedding(one_hot(0)).abs().max() > 0


def test_embedding_width_at_base_size():
    assert AnatomyEmbedding(16, 768).fc1.weight.shape == (896, 16)


@pytest.mark.parametrize("kernel", ["depthwise", "grouped", "dense"])
def test_a_fresh_layer_is_the_identity(kernel, tokens):
    layer = AnatomyConditionedSampling(DIM, NUM_ANATOMIES, kernel)
    torch.testing.assert_close(layer(tokens, one_hot(0, 1), LAYOUT), tokens, rtol=0, atol=0)


def test_anatomy_moves_the_offsets_and_the_modulation(layer, tokens):
    same = tokens[:1].repeat(2, 1, 1)
    offsets, modulation = layer.offsets(same, one_hot(0, 1), LAYOUT)
    assert (offsets[0] - offsets[1]).abs().mean() > 0.1
    assert (modulation[0] - modulation[1]).abs().mean() > 0.01


def test_modulation_lies_between_0_and_2_and_starts_at_1(layer, tokens):
    assert (AnatomyConditionedSampling(DIM, NUM_ANATOMIES).offsets(tokens, None, LAYOUT)[1] == 1).all()
    _, modulation = layer.offsets(tokens, None, LAYOUT)
    assert 0 < modulation.min() < 0.5
    assert 1.5 < modulation.max() < 2


def test_the_context_decides_where_and_never_what_is_read(layer, tokens, monkeypatch):
    fixed = layer.offsets(tokens, None, LAYOUT)
    changing = layer(tokens, one_hot(0, 1), LAYOUT)
    monkeypatch.setattr(layer, "offsets", lambda *_: fixed)
    outputs = [layer(tokens, anatomy, LAYOUT) for anatomy in (None, one_hot(0, 1), one_hot(2, 3))]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.allclose(changing, outputs[0], atol=0.1)


def test_output_is_linear_in_what_is_read(layer, tokens):
    offsets, modulation = layer.offsets(tokens, None, LAYOUT)
    once = layer.sample(tokens, offsets, modulation, LAYOUT)
    torch.testing.assert_close(layer.sample(3 * tokens, offsets, modulation, LAYOUT), 3 * once)
    torch.testing.assert_close(layer.sample(tokens, offsets, 2 * modulation, LAYOUT), 2 * once)


def test_offsets_are_in_units_of_the_patch_grid(tokens):
    layer = AnatomyConditionedSampling(DIM, NUM_ANATOMIES)
    offsets = torch.zeros(2, 12, 9, 2)
    offsets[..., 0], offsets[..., 1] = 1, -2  # a row down, two columns left; the identity kernel reads the centre only
    moved = layer.sample(tokens, offsets, torch.ones(2, 12, 9), LAYOUT).view(2, 3, 4, DIM)
    grid = tokens.view(2, 3, 4, DIM)
    assert torch.equal(moved[:, :2, 2:], grid[:, 1:, :2])
    assert moved[:, 2].abs().max() == 0
    assert moved[:, :, :2].abs().max() == 0


def test_positions_keep_full_precision_under_half_precision_tokens(layer, tokens):
    layer = layer.bfloat16()
    offsets, modulation = layer.offsets(tokens.bfloat16(), None, LAYOUT)
    assert offsets.dtype == modulation.dtype == torch.float32
    assert layer(tokens.bfloat16(), one_hot(0, 1), LAYOUT).dtype == torch.bfloat16


def test_every_parameter_gets_a_gradient(layer, tokens):
    layer(tokens, one_hot(0, 1), LAYOUT).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_attention_to_the_queries_themselves_is_timms(qkv_bias, tokens):
    torch.manual_seed(0)
    timms = Attention(DIM, num_heads=3, qkv_bias=qkv_bias, qk_norm=True, norm_layer=nn.LayerNorm)
    ours = DeformableAttention(DIM, num_heads=3, qkv_bias=qkv_bias, qk_norm=True, norm_layer=nn.LayerNorm)
    ours.load_state_dict(timms.state_dict())
    torch.testing.assert_close(ours(tokens, tokens), timms(tokens))


def test_queries_come_from_one_sequence_and_keys_and_values_from_the_other(tokens):
    """One head, identity projections, by the definition of attention (Eq. 2)."""
    attention = DeformableAttention(DIM, num_heads=1)
    attention.qkv.weight.data = torch.eye(DIM).repeat(3, 1)
    attention.proj.weight.data = torch.eye(DIM)
    torch.nn.init.zeros_(attention.proj.bias)
    queries, context = tokens
    expected = (queries @ context.T / DIM**0.5).softmax(-1) @ context
    torch.testing.assert_close(attention(queries[None], context[None])[0], expected)


def test_a_fresh_block_is_timms_block(tokens):
    torch.manual_seed(0)
    plain = Block(DIM, 3, qkv_bias=True)
    block = ACDTBlock(DIM, 3, NUM_ANATOMIES, "depthwise", qkv_bias=True)
    block.load_state_dict(plain.state_dict(), strict=False)
    with_class_token = torch.cat((torch.randn(2, 1, DIM), tokens), dim=1)
    torch.testing.assert_close(block(with_class_token, LAYOUT, one_hot(0, 1)), plain(with_class_token))


def test_queries_are_unsampled_and_the_class_token_passes_around_the_sampling(tokens):
    torch.manual_seed(0)
    block = ACDTBlock(DIM, 3, NUM_ANATOMIES, "depthwise")
    randomised(block.sampling)
    attended = []
    block.attn.register_forward_pre_hook(lambda _, arguments: attended.extend(arguments))
    with_prefix = torch.cat((torch.randn(2, 2, DIM), tokens), dim=1)
    block(with_prefix, LAYOUT, one_hot(0, 1))
    queries, context = attended
    normed = block.norm1(with_prefix)
    torch.testing.assert_close(queries, normed)
    torch.testing.assert_close(context[:, :2], normed[:, :2])
    torch.testing.assert_close(context[:, 2:], block.sampling(normed[:, 2:], one_hot(0, 1), LAYOUT))
    assert not torch.allclose(context[:, 2:], normed[:, 2:], atol=0.1)


def test_sampling_macs_by_hand():
    depthwise = AnatomyConditionedSampling(DIM, NUM_ANATOMIES)
    dense = AnatomyConditionedSampling(DIM, NUM_ANATOMIES, "dense")
    assert depthwise.sampling_macs(12) == (12 * 9 * 24, 12 * 9 * 24 * 4)
    assert dense.sampling_macs(12) == (0, 12 * 9 * 24 * 4)  # its kernel is a matrix product
