"""The masked-image decoder: visible patch tokens in, pixels of every patch out.

Legend: B images, N patches, V visible patches, D encoder channels, E decoder channels, P pixels of a patch (times
image channels).
"""

from typing import NamedTuple

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from arl_lightning.models.sampling import visible_positions


class Decoded(NamedTuple):
    """Decoder output.

    Attributes:
        reconstruction: (B, N, P) predicted pixels of every patch.
        hidden: (B, N, E) input of the last linear layer; the adaptive weight (Eq. 6) needs it.
    """

    reconstruction: Tensor
    hidden: Tensor


class Decoder(nn.Module):
    """A light transformer over visible tokens and mask tokens, as in masked autoencoders (paper section 3.4).

    The paper gives no decoder; 8 blocks of 512 channels and 16 heads are MAE's.

    Args:
        encoder_dim: D.
        grid_size: Rows and columns of the patch grid.
        patch_pixels: P.
        depth: Number of blocks.
        dim: E.
        num_heads: Attention heads.
    """

    position: Tensor

    def __init__(
        self,
        encoder_dim: int,
        grid_size: tuple[int, int],
        patch_pixels: int,
        depth: int = 8,
        dim: int = 512,
        num_heads: int = 16,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        position = build_sincos2d_pos_embed(list(grid_size), dim=dim, interleave_sin_cos=False)
        self.register_buffer("position", position[None], persistent=False)
        self.blocks = nn.ModuleList(Block(dim, num_heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.last = nn.Linear(dim, patch_pixels)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw weights as a vision transformer's: truncated normal 0.02, biases zero."""
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, patch_tokens: Tensor, mask: Tensor, num_visible: int | None = None) -> Decoded:
        """Predict the pixels of every patch.

        Args:
            patch_tokens: (B, V, D) visible tokens in ascending position, without prefix tokens.
            mask: (B, N) bool, True where hidden.
            num_visible: V, where the caller knows it of every image; None to count.
        """
        embedded = self.embed(patch_tokens)
        index = visible_positions(mask, num_visible)[..., None].expand_as(embedded)
        tokens = self.mask_token.to(embedded.dtype).expand(*mask.shape, -1).scatter(1, index, embedded)  # (B, N, E)
        tokens = tokens + self.position
        for block in self.blocks:
            tokens = block(tokens)
        hidden = self.norm(tokens)
        return Decoded(self.last(hidden), hidden)
