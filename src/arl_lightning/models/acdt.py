"""The anatomy-conditioned deformable transformer block, ACDT (paper section 3.3, Eq. 1 and 2).

Legend: B images, V visible patch tokens, T = prefix tokens + V, D channels, A anatomies, K = 9 sampling locations.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from arl_lightning.models.sampling import (
    CORNERS,
    TokenLayout,
    bilinear_corners,
    sample_depthwise,
    sample_grouped,
)

Kernel = Literal["depthwise", "grouped", "dense"]

KERNEL_SIZE = 3
NUM_LOCATIONS = KERNEL_SIZE**2
NUM_GROUPS = 8  # of the grouped kernel


class AnatomyEmbedding(nn.Module):
    """Project one-hot anatomies to the anatomical context AC; the zero vector (`other`) gives exactly zero.

    Two bias-free layers, 16 -> 896 -> 768 at ViT-B. The width is ours: it brings A-ViT-B to Table 10's 95M parameters.
    """

    def __init__(self, num_anatomies: int, dim: int) -> None:
        super().__init__()
        hidden_dim = dim * 7 // 6 // 8 * 8
        self.fc1 = nn.Linear(num_anatomies, hidden_dim, bias=False)
        self.fc2 = nn.Linear(hidden_dim, dim, bias=False)

    def init_weights(self) -> None:
        """Start AC at about 0.4 of the normalised tokens' scale, so that the offsets can hear it."""
        nn.init.normal_(self.fc1.weight, std=1.0)
        nn.init.trunc_normal_(self.fc2.weight, std=0.6 * self.fc2.in_features**-0.5)

    def forward(self, anatomy: Tensor) -> Tensor:
        """Map (B, A) one-hot rows to AC, (B, D)."""
        return self.fc2(F.gelu(self.fc1(anatomy)))


class AnatomyConditionedSampling(nn.Module):
    """Deformable convolution of patch tokens, its offsets conditioned on the anatomy (Eq. 1).

    `x_P,AC = x_P + AC` decides where to look (offsets) and how much each look counts (modulation); what is read there
    is `x_P` itself. Offsets come from a depthwise 3x3 and a 1x1 layer, are in units of the patch grid, and start at the
    regular 3x3 grid; the kernel starts as the identity. A fresh block therefore equals the plain transformer block.

    Args:
        dim: Channels D.
        num_anatomies: Length A of the one-hot vector.
        kernel: Shape of w_k: `depthwise` (default; Table 10 leaves room for no other), `grouped` (8 groups), `dense`.
    """

    def __init__(self, dim: int, num_anatomies: int, kernel: Kernel = "depthwise") -> None:
        super().__init__()
        self.groups = {"depthwise": dim, "grouped": NUM_GROUPS, "dense": 1}[kernel]
        self.anatomy = AnatomyEmbedding(num_anatomies, dim)
        self.offset_depthwise = nn.Conv2d(dim, dim, KERNEL_SIZE, padding=KERNEL_SIZE // 2, groups=dim)
        self.offset_pointwise = nn.Linear(dim, NUM_LOCATIONS * 3)  # row, column and modulation of each location
        # The layout of a convolution's weight: (out, in / groups, 3, 3).
        self.weight = nn.Parameter(torch.empty(dim, dim // self.groups, KERNEL_SIZE, KERNEL_SIZE))
        self.init_weights()

    def init_weights(self) -> None:
        """Zero the offsets, set the modulation to one and the kernel to the identity."""
        self.anatomy.init_weights()
        nn.init.zeros_(self.offset_pointwise.weight)
        nn.init.zeros_(self.offset_pointwise.bias)
        nn.init.dirac_(self.weight, groups=self.groups)

    def offsets(self, tokens: Tensor, anatomy: Tensor | None, layout: TokenLayout) -> tuple[Tensor, Tensor]:
        """Predict where each token looks: `delta p_k = g(x_P + AC)`.

        Args:
            tokens: (B, V, D).
            anatomy: (B, A) one-hot, or None for no conditioning.
            layout: Where the tokens lie.

        Returns:
            Displacements from the regular 3x3 grid (B, V, K, 2), row then column, and the modulation (B, V, K) in
            (0, 2), both at least float32: half precision cannot tell neighbouring positions apart.
        """
        context = tokens if anatomy is None else tokens + self.anatomy(anatomy.to(tokens.dtype))[:, None]
        features = layout.from_grid(self.offset_depthwise(layout.to_grid(context)))
        raw = self.offset_pointwise(F.gelu(features))
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        offsets, modulation = raw.split((NUM_LOCATIONS * 2, NUM_LOCATIONS), dim=-1)
        return offsets.unflatten(-1, (NUM_LOCATIONS, 2)), 2 * modulation.sigmoid()

    def sample(self, tokens: Tensor, offsets: Tensor, modulation: Tensor, layout: TokenLayout) -> Tensor:
        """Eq. 1: `y_P(p) = sum_k w_k S(x_P, p + delta p_k)`, each term times its modulation.

        Args:
            tokens: (B, V, D), x_P.
            offsets: (B, V, K, 2) displacements from the regular 3x3 grid.
            modulation: (B, V, K).
            layout: Where the tokens lie.

        Returns:
            (B, V, D), y_P.
        """
        reach = torch.arange(KERNEL_SIZE, device=offsets.device, dtype=offsets.dtype) - KERNEL_SIZE // 2
        regular = torch.cartesian_prod(reach, reach)  # (K, 2)
        locations = layout.coordinates(offsets.device, offsets.dtype)[:, :, None] + regular + offsets
        rows, weights = bilinear_corners(locations, layout)
        weights = weights * modulation[..., None]
        dim, group_dim = self.weight.shape[:2]
        if group_dim == 1:
            return sample_depthwise(tokens, rows, weights, self.weight.view(dim, NUM_LOCATIONS).T)
        kernel = self.weight.view(self.groups, group_dim, group_dim, NUM_LOCATIONS).permute(3, 0, 2, 1)
        return sample_grouped(tokens, rows, weights, kernel)

    def forward(self, tokens: Tensor, anatomy: Tensor | None, layout: TokenLayout) -> Tensor:
        """Map x_P (B, V, D) to y_P (B, V, D)."""
        return self.sample(tokens, *self.offsets(tokens, anatomy, layout), layout)

    def sampling_macs(self, num_tokens: int) -> tuple[int, int]:
        """Count multiply-accumulates outside matrix products: of the depthwise kernel and of the bilinear sampling.

        The grouped and the dense kernel are matrix products themselves, and count as none here.
        """
        dim, group_dim = self.weight.shape[:2]
        reads = num_tokens * NUM_LOCATIONS * dim
        return reads if group_dim == 1 else 0, reads * CORNERS


class DeformableAttention(Attention):
    """Attention with queries from x_P, keys and values from y_P (Eq. 2).

    Parameters and their names are timm's `Attention`'s, so that a plain ViT's weights fit.
    """

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        """Attend from (B, T, D) queries to a (B, T, D) context; returns (B, T, D)."""
        weight, bias = self.qkv.weight, self.qkv.bias
        dim = self.attn_dim
        query_bias, context_bias = (None, None) if bias is None else (bias[:dim], bias[dim:])
        q = self._split_heads(F.linear(queries, weight[:dim], query_bias))
        k, v = map(self._split_heads, F.linear(context, weight[dim:], context_bias).chunk(2, dim=-1))
        dropout = self.attn_drop.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, dropout_p=dropout)
        return self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))  # (B, heads, T, d) -> (B, T, D)

    def _split_heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (B, T, D) -> (B, heads, T, d)


class Tokens(NamedTuple):
    """What a block takes of one pass.

    Attributes:
        tokens: (B, T, D), prefix first.
        layout: Where the patch tokens lie.
        anatomy: (B, A) one-hot, or None for no conditioning.
    """

    tokens: Tensor
    layout: TokenLayout
    anatomy: Tensor | None


class PassesBlock(Block):
    """timm's transformer block that can take several passes in one call."""

    def forward_passes(self, passes: list[Tokens], recompute: bool = False) -> list[Tensor]:
        """Map the tokens of every pass, so that weights that are sharded are gathered once for all of them.

        Args:
            passes: Each is what `forward` takes; hooks on the block itself see none of them.
            recompute: Keep no activations for the backward pass.
        """
        forward = cast(Callable[..., Tensor], self.forward)
        run = partial(checkpoint, forward, use_reentrant=False) if recompute else forward
        return [run(*each) for each in passes]


class PlainBlock(PassesBlock):
    """timm's transformer block behind ACDT's signature: the same without conditioning."""

    def forward(self, tokens: Tensor, layout: TokenLayout, anatomy: Tensor | None) -> Tensor:  # type: ignore[override]
        """Map (B, T, D) to (B, T, D); layout and anatomy are not used."""
        return super().forward(tokens)


class ACDTBlock(PassesBlock):
    """Transformer block whose keys and values are read through anatomy-conditioned deformable sampling.

    Args:
        dim: Channels D.
        num_heads: Attention heads.
        num_anatomies: Length A of the one-hot vector.
        kernel: Shape of the sampling kernel.
        kwargs: Those of timm's `Block`.
    """

    def __init__(self, dim: int, num_heads: int, num_anatomies: int, kernel: Kernel, **kwargs: Any) -> None:
        kwargs["attn_layer"] = DeformableAttention
        super().__init__(dim, num_heads, **kwargs)
        self.sampling = AnatomyConditionedSampling(dim, num_anatomies, kernel)

    def forward(self, tokens: Tensor, layout: TokenLayout, anatomy: Tensor | None) -> Tensor:  # type: ignore[override]
        """Map (B, T, D) tokens, prefix first, to (B, T, D); `anatomy` is (B, A) one-hot or None."""
        tokens = tokens + self.drop_path1(self.ls1(self._attend(self.norm1(tokens), layout, anatomy)))
        return tokens + self.drop_path2(self.ls2(self.mlp(self.norm2(tokens))))

    def _attend(self, normed: Tensor, layout: TokenLayout, anatomy: Tensor | None) -> Tensor:
        device = normed.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):  # the meta device has none
            # The sampling's gathers are outside autocast's lists, and its neighbours run in this type anyway.
            normed = normed.to(torch.get_autocast_dtype(device))
        num_visible = layout.height * layout.width if layout.visible is None else layout.visible.shape[1]
        prefix, patches = normed.split((normed.shape[1] - num_visible, num_visible), dim=1)
        sampled = self.sampling(patches, anatomy, layout)
        return self.attn(normed, torch.cat((prefix, sampled), dim=1))
