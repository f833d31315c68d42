"""A-ViT: timm's vision transformer with anatomy-conditioned deformable blocks (paper section 3.3, Fig. 2).

Legend: B images, N patches, V visible patches, T = prefix tokens + V, D channels, A anatomies.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models import VisionTransformer
from timm.models._features import feature_take_indices
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from arl_lightning.models.acdt import ACDTBlock, Kernel, PassesBlock, PlainBlock, Tokens
from arl_lightning.models.sampling import TokenLayout

Conditioning = Literal["acdt", "none"]


class Pass(NamedTuple):
    """Images that go through the encoder together, and how.

    Attributes:
        image: (B, C, H, W).
        anatomy: (B,) int64 vocabulary indices, or None for no conditioning.
        mask: (B, N) bool, True where hidden, the same number in every image; None to see everything.
        num_visible: How many patches the mask leaves visible, where that is known; None to count.
    """

    image: Tensor
    anatomy: Tensor | None
    mask: Tensor | None
    num_visible: int | None = None


class AViT(VisionTransformer):
    """Vision transformer that is told which organ it looks at.

    Anatomies are indices into a vocabulary of A names; index A is `other`, the zero vector, which conditions nothing.
    Images may have any size that the patch size divides: position embeddings are interpolated.

    Args:
        conditioning: `acdt` as the paper, or `none`: a plain ViT with timm's parameter names.
        num_anatomies: Length A of the one-hot vector.
        kernel: Shape of the deformable kernel, see `AnatomyConditionedSampling`.
        kwargs: Those of timm's `VisionTransformer` (img_size, patch_size, in_chans, num_classes, embed_dim, depth,
            num_heads, reg_tokens, drop_path_rate, global_pool, ...).
    """

    def __init__(
        self,
        conditioning: Conditioning = "acdt",
        num_anatomies: int = 16,
        kernel: Kernel = "depthwise",
        **kwargs: Any,
    ) -> None:
        block_fns = {"acdt": partial(ACDTBlock, num_anatomies=num_anatomies, kernel=kernel), "none": PlainBlock}
        if conditioning not in block_fns:
            raise ValueError(f"conditioning '{conditioning}' is not one of {', '.join(block_fns)}")
        kwargs = {"dynamic_img_size": True, **kwargs, "block_fn": block_fns[conditioning]}
        super().__init__(**kwargs)
        self.conditioning = conditioning
        self.num_anatomies = num_anatomies

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Draw weights as timm does; position embeddings start as 2-D sine and cosine, from which they learn on."""
        super().init_weights(mode, needs_reset)
        if self.pos_embed is None:
            return
        position = build_sincos2d_pos_embed(list(self.grid_size), dim=self.embed_dim, device=self.pos_embed.device)
        with torch.no_grad():
            self.pos_embed[0, -len(position) :] = position.to(self.pos_embed.dtype)

    @property
    def patch_size(self) -> int:
        """Pixels a side of a patch."""
        return self.patch_embed.patch_size[0]

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches at the image size it was built for."""
        return self.patch_embed.grid_size

    def forward(self, image: Tensor, anatomy: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Classify images.

        Args:
            image: (B, C, H, W).
            anatomy: (B,) int64 vocabulary indices, or None for no conditioning.

        Returns:
            (B, num_classes) logits, or (B, D) pooled features where `num_classes` is 0.
        """
        return self.forward_head(self.forward_features(image, anatomy))

    def forward_features(  # type: ignore[override]
        self, image: Tensor, anatomy: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Encode the visible patches of images.

        Args:
            image: (B, C, H, W).
            anatomy: (B,) int64 vocabulary indices, or None for no conditioning.
            mask: (B, N) bool, True where hidden, the same number in every image; None to see everything.

        Returns:
            (B, T, D) normalised tokens: class token, register tokens, then patch tokens in ascending position.

        Raises:
            ValueError: If the patch size does not divide the image, or the mask does not fit.
        """
        tokens, layout = self._embed(image, mask)
        one_hot = self._one_hot(anatomy, tokens)
        for block in self.blocks:
            tokens = self._run(block, tokens, layout, one_hot)
        return self.norm(tokens)

    def forward_passes(self, passes: Sequence[Pass]) -> list[Tensor]:
        """Encode images of several kinds side by side, each block called once for all.

        Returns:
            What `forward_features` returns for each.
        """
        states = []
        for each in passes:
            tokens, layout = self._embed(each.image, each.mask, each.num_visible)
            states.append(Tokens(tokens, layout, self._one_hot(each.anatomy, tokens)))
        recompute = self.grad_checkpointing and self.training
        for block in self.blocks:
            outputs = cast(PassesBlock, block).forward_passes(states, recompute)
            states = [state._replace(tokens=tokens) for state, tokens in zip(states, outputs, strict=True)]
        return [self.norm(state.tokens) for state in states]

    def forward_intermediates(  # type: ignore[override]
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
        attn_mask: None = None,
        anatomy: Tensor | None = None,
    ) -> Any:
        """Encode images and keep feature maps for dense tasks; timm's arguments, and the anatomy.

        Args:
            x: Images, (B, C, H, W).
            indices: The last n blocks if an int, those blocks if a list, all if None.
            return_prefix_tokens: Pair every map with the block's class and register tokens, (B, prefix, D).
            norm: Apply the final norm to every map.
            stop_early: Leave out the blocks behind the last one asked for.
            output_fmt: `NCHW` for (B, D, H / patch, W / patch) maps, `NLC` for (B, N, D) tokens.
            intermediates_only: Return the maps alone.
            attn_mask: timm's; only None.
            anatomy: (B,) int64 vocabulary indices, or None for no conditioning.

        Returns:
            The (B, T, D) normalised tokens and a list of maps, or that list alone.

        Raises:
            ValueError: If an attention mask is given.
        """
        if attn_mask is not None:
            raise ValueError("A-ViT takes no attention mask")
        take, last = feature_take_indices(len(self.blocks), indices)
        tokens, layout = self._embed(x, None)
        one_hot = self._one_hot(anatomy, tokens)
        intermediates: list[Any] = []
        for index, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            tokens = self._run(block, tokens, layout, one_hot)
            if index in take:
                normed = self.norm(tokens) if norm else tokens
                prefix, patches = normed.tensor_split((self.num_prefix_tokens,), dim=1)
                patches = layout.to_grid(patches).contiguous() if output_fmt == "NCHW" else patches
                intermediates.append((patches, prefix) if return_prefix_tokens else patches)
        return intermediates if intermediates_only else (self.norm(tokens), intermediates)

    def _embed(self, image: Tensor, mask: Tensor | None, num_visible: int | None = None) -> tuple[Tensor, TokenLayout]:
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"image of {height} x {width} pixels is not divisible by patches of {self.patch_size}")
        layout = TokenLayout.from_mask(mask, height // self.patch_size, width // self.patch_size, num_visible)
        tokens = self._pos_embed(self.patch_embed(image))
        if layout.visible is not None:
            prefix, patches = tokens.tensor_split((self.num_prefix_tokens,), dim=1)
            kept = patches.gather(1, layout.visible[..., None].expand(-1, -1, patches.shape[-1]))
            tokens = torch.cat((prefix, kept), dim=1)
        return self.norm_pre(tokens), layout

    def _one_hot(self, anatomy: Tensor | None, tokens: Tensor) -> Tensor | None:
        if anatomy is None or self.conditioning == "none":
            return None
        # `other` has index A: its column is dropped, which leaves the zero vector.
        return F.one_hot(anatomy, self.num_anatomies + 1)[:, :-1].to(tokens.dtype)

    def _run(self, block: torch.nn.Module, tokens: Tensor, layout: TokenLayout, one_hot: Tensor | None) -> Tensor:
        if self.grad_checkpointing and self.training:
            return checkpoint(block, tokens, layout, one_hot, use_reentrant=False)
        return block(tokens, layout, one_hot)
