"""Deformable sampling of patch tokens, dense or sparse (paper Eq. 1), without materialising the grid.

Legend: B images, N positions of the patch grid, V visible tokens (V = N when nothing is hidden), K sampling locations
a token, D channels, G channel groups.

`torch.nn.functional.embedding_bag` does the work: it reads rows of a table, weighs and sums them in one fused pass.
Hidden positions have no row, so nothing can be read from them, and the border is padded with zeros in the same way.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CORNERS = 4  # of the grid cell around a sampling location
CPU_TABLE_BYTES = 16 * 2**20  # that `sample_depthwise` builds at once on a CPU


@dataclass(frozen=True)
class TokenLayout:
    """Where a batch's tokens lie on the patch grid.

    Attributes:
        height: Rows of the grid.
        width: Columns of the grid.
        visible: (B, V) flat positions of the tokens, ascending; None when all N are visible.
        rows: (B, N) the token at each position, -1 where it is hidden; None when all N are visible.
    """

    height: int
    width: int
    visible: Tensor | None = None
    rows: Tensor | None = None

    @classmethod
    def from_mask(cls, mask: Tensor | None, height: int, width: int, num_visible: int | None = None) -> "TokenLayout":
        """Lay out the visible tokens of a mask.

        Args:
            mask: (B, N) bool, True where hidden; None for a full grid.
            height: Rows of the grid.
            width: Columns of the grid.
            num_visible: V, where the caller knows it.

        Raises:
            ValueError: If the mask does not fit the grid, or hides unlike numbers of patches in two images.
        """
        if mask is None:
            return cls(height, width)
        visible = visible_positions(mask, num_visible)
        if mask.shape[1] != height * width:
            raise ValueError(f"mask has {mask.shape[1]} positions, the patch grid {height} x {width}")
        rows = torch.full(mask.shape, -1, dtype=torch.long, device=mask.device)
        order = torch.arange(visible.shape[1], device=mask.device).expand_as(visible)
        return cls(height, width, visible, rows.scatter(1, visible, order))

    def coordinates(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the tokens' (row, column) in grid units, (B or 1, V, 2)."""
        positions = self.visible
        if positions is None:
            positions = torch.arange(self.height * self.width, device=device)[None]
        return torch.stack((positions // self.width, positions % self.width), dim=-1).to(dtype)

    def to_grid(self, tokens: Tensor) -> Tensor:
        """Scatter (B, V, D) tokens to a (B, D, height, width) grid, zero at hidden positions."""
        batch, _, dim = tokens.shape
        if self.visible is not None:
            index = self.visible[..., None].expand_as(tokens)
            tokens = tokens.new_zeros(batch, self.height * self.width, dim).scatter(1, index, tokens)
        return tokens.reshape(batch, self.height, self.width, dim).permute(0, 3, 1, 2)  # (B, N, D) -> (B, D, H, W)

    def from_grid(self, grid: Tensor) -> Tensor:
        """Gather the visible tokens, (B, V, D), of a (B, D, height, width) grid."""
        tokens = grid.flatten(2).transpose(1, 2)  # (B, D, H, W) -> (B, N, D)
        if self.visible is None:
            return tokens
        return tokens.gather(1, self.visible[..., None].expand(-1, -1, tokens.shape[-1]))


def visible_positions(mask: Tensor, num_visible: int | None = None) -> Tensor:
    """Return the positions, (B, V) ascending, that a (B, N) mask leaves visible.

    Args:
        mask: True where hidden.
        num_visible: V, where the caller knows it of every image; else it is counted, for which a GPU is waited for.

    Raises:
        ValueError: If two images of the batch have unlike numbers of visible patches, or none.
    """
    if num_visible is None:
        fewest, most = map(int, (~mask).sum(1).aminmax())
        if fewest != most or fewest == 0:
            raise ValueError(f"every image needs the same, positive number of visible patches, got {fewest}-{most}")
        num_visible = fewest
    return mask.to(torch.uint8).argsort(dim=1, stable=True)[:, :num_visible]


def bilinear_corners(locations: Tensor, layout: TokenLayout) -> tuple[Tensor, Tensor]:
    """Find the four grid points around each location and their bilinear weights (S of Eq. 1).

    Args:
        locations: (B, V, K, 2) row and column in grid units.
        layout: Where the tokens lie.

    Returns:
        Token rows (B, V, K, 4), and weights of the same shape: zero outside the grid and at hidden positions.
    """
    low = locations.detach().floor()
    upper_share = locations - low
    side = torch.arange(2, device=locations.device)  # built there: a copy from the host would make a GPU wait
    corner = torch.cartesian_prod(side, side)  # (4, 2)
    share = upper_share[..., None, :]
    weights = torch.where(corner.bool(), share, 1 - share).prod(-1)  # (B, V, K, 4, 2) -> (B, V, K, 4)

    # Far-away locations are clamped before the cast: an integer must not wrap round into the grid.
    row, column = (low.clamp(-2, max(layout.height, layout.width)).long()[..., None, :] + corner).unbind(-1)
    inside = (row >= 0) & (row < layout.height) & (column >= 0) & (column < layout.width)
    rows = (row * layout.width + column).masked_fill(~inside, 0)
    if layout.rows is not None:
        rows = layout.rows.gather(1, rows.flatten(1)).view_as(rows)
        inside = inside & (rows >= 0)
        rows = rows.clamp(min=0)
    return rows, weights * inside


def weighted_gather(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Sum weighted rows of each image's table.

    Args:
        table: (B, R, D).
        rows: (B, Q, C) indices into R.
        weights: (B, Q, C).

    Returns:
        (B, Q, D): `sum_c weights[b, q, c] * table[b, rows[b, q, c]]`.
    """
    batch, num_rows, dim = table.shape
    first = torch.arange(batch, device=rows.device)[:, None, None] * num_rows
    summed = F.embedding_bag(
        (rows + first).flatten(0, 1),
        table.reshape(-1, dim),
        per_sample_weights=weights.flatten(0, 1).to(table.dtype),
        mode="sum",
    )
    return summed.view(batch, -1, dim)


def sample_depthwise(tokens: Tensor, rows: Tensor, weights: Tensor, kernel: Tensor) -> Tensor:
    """Eq. 1 with one weight for each channel and location.

    Args:
        tokens: (B, V, D).
        rows: (B, V, K, 4) of `bilinear_corners`.
        weights: (B, V, K, 4), times the modulation.
        kernel: (K, D), w_k of Eq. 1.

    Returns:
        (B, V, D).
    """
    kernel = kernel.to(tokens.dtype).contiguous()
    images = len(tokens)
    if tokens.device.type == "cpu":
        # Tables beyond the cache and the allocator's pools are paged in anew by every block.
        images = max(1, CPU_TABLE_BYTES // (tokens[0].numel() * tokens.element_size() * len(kernel)))
    parts = zip(tokens.split(images), rows.split(images), weights.split(images), strict=True)
    return torch.cat([_gather_weighed(*part, kernel) for part in parts])


def _gather_weighed(tokens: Tensor, rows: Tensor, weights: Tensor, kernel: Tensor) -> Tensor:
    # Weighing the table before the gather sums all K * 4 corners in one pass, with no (B, V, K, D) sample in between.
    table = (tokens[:, :, None] * kernel).flatten(1, 2)  # (B, V, K, D) -> (B, V * K, D)
    num_locations = len(kernel)
    location = torch.arange(num_locations, device=rows.device)[:, None]
    return weighted_gather(table, (rows * num_locations + location).flatten(2), weights.flatten(2))


def sample_grouped(tokens: Tensor, rows: Tensor, weights: Tensor, kernel: Tensor) -> Tensor:
    """Eq. 1 with a matrix for each location and channel group; one group is the dense kernel.

    Args:
        tokens: (B, V, D).
        rows: (B, V, K, 4) of `bilinear_corners`.
        weights: (B, V, K, 4), times the modulation.
        kernel: (K, G, D / G in, D / G out), w_k of Eq. 1.

    Returns:
        (B, V, D).
    """
    batch, num_tokens, dim = tokens.shape
    num_locations, groups, group_dim, _ = kernel.shape
    samples = weighted_gather(tokens, rows.flatten(1, 2), weights.flatten(1, 2))
    samples = samples.view(batch, num_tokens, num_locations, groups, group_dim)  # (B, V * K, D) -> (B, V, K, G, D / G)
    return torch.einsum("bvkgi,kgio->bvgo", samples, kernel.to(samples.dtype)).reshape(batch, num_tokens, dim)
