"""Where an encoder's block looks: its attention, and the sampling locations of a deformable block.

Legend: B images, T tokens (prefix first), N patch tokens on a grid of h rows and w columns, D channels, d of a head,
K = 9 sampling locations.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from arl_lightning.downstream.encoders import Backbone, PixelBackbone
from arl_lightning.errors import UserError
from arl_lightning.models.acdt import KERNEL_SIZE, ACDTBlock

From = Literal["class", "patches"]


def attention_weights(attention: Attention, queries: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each token attends to, which fused kernels never write out, in float32.

    Args:
        attention: A block's attention, deformable or timm's own.
        queries: (B, T, D) its queries are projected from.
        context: (B, T, D) its keys and values are projected from; the same as the queries in a plain block.

    Returns:
        Weights (B, heads, T, T), whose rows sum to one, and the values (B, heads, T, d) that they weigh.
    """
    weight, bias, dim = attention.qkv.weight.float(), attention.qkv.bias, attention.attn_dim
    query_bias, context_bias = (None, None) if bias is None else (bias[:dim].float(), bias[dim:].float())

    def heads(tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)

    q = heads(F.linear(queries.float(), weight[:dim], query_bias))
    k, v = map(heads, F.linear(context.float(), weight[dim:], context_bias).chunk(2, dim=-1))
    logits = attention.q_norm(q) * attention.scale @ attention.k_norm(k).transpose(-2, -1)
    return logits.softmax(dim=-1), v


@torch.no_grad()
def attention_maps(
    backbone: Backbone, squares: Tensor, anatomy: Tensor, block: int | None = None, origin: From = "class"
) -> Tensor:
    """Return how much of a block's attention each patch gets.

    Args:
        backbone: The encoder.
        squares: uint8 (B, C, H, W).
        anatomy: (B,) vocabulary indices.
        block: Counted from 0; the last one where None.
        origin: Whose attention: the class token's, or the mean over all patch tokens.

    Returns:
        (B, heads, h, w) float32; a head's sum is what does not go to class and register tokens, at most 1.

    Raises:
        UserError: If the encoder has no such block, no class token, or no attention of the usual kind.
    """
    module = getattr(chosen_block(backbone, block), "attn", None)
    if not isinstance(module, Attention):
        raise UserError("--attention: the encoder's blocks have no attention of timm's usual kind; leave it out")
    prefix = backbone.num_prefix_tokens
    if origin == "class" and not backbone.network.has_class_token:
        raise UserError("--attention: the encoder has no class token; use --attention_from patches")
    inputs = _inputs_of(module, lambda: backbone(backbone.normalize(squares), anatomy))
    weights, _ = attention_weights(module, inputs[0], inputs[-1])
    rows = weights[:, :, 0] if origin == "class" else weights[:, :, prefix:].mean(dim=2)
    height, width = (length // backbone.patch_size for length in squares.shape[-2:])
    return rows[..., prefix:].unflatten(-1, (height, width))  # (B, heads, N) -> (B, heads, h, w)


@torch.no_grad()
def sampling_locations(
    backbone: Backbone, squares: Tensor, anatomy: Tensor, block: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return where a deformable block reads for each patch (paper Eq. 1: `p + delta p_k`).

    Args:
        backbone: The encoder.
        squares: uint8 (B, C, H, W).
        anatomy: (B,) vocabulary indices.
        block: Counted from 0; the last one where None.

    Returns:
        Row and column of each location on the patch grid (B, N, K, 2), patch centres at whole numbers; and its
        modulation (B, N, K), 1 in a fresh block. What lies outside of the grid reads zero.

    Raises:
        UserError: If the encoder has no such block, or it is not deformable.
    """
    module = chosen_block(backbone, block)
    if not isinstance(module, ACDTBlock):
        raise UserError("--offsets: the run's encoder has no deformable blocks; only an A-ViT's can be drawn")
    sampling = module.sampling
    inputs = _inputs_of(sampling, lambda: backbone(backbone.normalize(squares), anatomy))
    offsets, modulation = sampling.offsets(*inputs)
    reach = torch.arange(KERNEL_SIZE, device=offsets.device, dtype=offsets.dtype) - KERNEL_SIZE // 2
    own = inputs[-1].coordinates(offsets.device, offsets.dtype)[:, :, None]
    return own + torch.cartesian_prod(reach, reach) + offsets, modulation


def chosen_block(backbone: Backbone, block: int | None) -> nn.Module:
    """Return one of an encoder's blocks, the last one where None.

    Raises:
        UserError: If it has no such block.
    """
    if isinstance(backbone, PixelBackbone):
        raise UserError("--attention, --offsets: a run on pixels has no encoder that looks anywhere; leave them out")
    blocks = backbone.network.blocks
    if block is not None and not 0 <= block < len(blocks):
        raise UserError(f"--block {block}: the run's encoder has blocks 0 to {len(blocks) - 1}")
    return blocks[-1 if block is None else block]


def _inputs_of(module: nn.Module, forward: Callable[[], object]) -> tuple[Any, ...]:
    """Run a network and return what one of its modules was called with."""
    held: list[tuple[Any, ...]] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: held.append(inputs))
    try:
        forward()
    finally:
        handle.remove()
    return held[0]
