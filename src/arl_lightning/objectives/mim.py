"""Masked image modelling (paper Eq. 3).

Legend: B images, N patches, P pixels of a patch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6  # of a patch's variance


def reconstruction_loss(reconstruction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Eq. 3: squared error of the hidden patches, averaged over them.

    The paper writes the squared norm of a patch; we divide by its P pixels as MAE does, so that the loss does not grow
    with the patch.

    Args:
        reconstruction: (B, N, P).
        target: (B, N, P) true patches.
        mask: (B, N) bool, True where hidden; only these count.
    """
    error = (reconstruction - target).square().mean(-1)  # (B, N, P) -> (B, N)
    return (error * mask).sum() / mask.sum()


def normalize_patches(patches: Tensor) -> Tensor:
    """Give each (B, N, P) patch zero mean and unit variance over its pixels (the `norm_pix_loss` of MAE)."""
    mean, std = _moments(patches)
    return (patches - mean) / std


def denormalize_patches(reconstruction: Tensor, patches: Tensor) -> Tensor:
    """Bring normalised predictions back to pixels with the true patches' means and deviations, all (B, N, P)."""
    mean, std = _moments(patches)
    return reconstruction * std + mean


def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def neighbour_mean(patches: Tensor, mask: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Predict every patch as the mean of its nearest visible neighbours: the floor that a decoder must beat.

    The neighbours are the visible patches of the smallest square window, 3 x 3 upwards, that holds any.

    Args:
        patches: (B, N, P) true patches.
        mask: (B, N) bool, True where hidden; at least one patch of each image is visible.
        grid_size: Rows and columns, N in all.

    Returns:
        (B, N, 1), constant over a patch's pixels.
    """
    visible = (~mask).to(patches.dtype).unflatten(1, grid_size)[:, None]  # (B, N) -> (B, 1, rows, columns)
    means = patches.mean(-1).unflatten(1, grid_size)[:, None] * visible
    filled, found = torch.zeros_like(means), torch.zeros_like(means, dtype=torch.bool)
    for radius in range(1, max(grid_size)):
        total, count = (F.avg_pool2d(grid, 2 * radius + 1, 1, radius, divisor_override=1) for grid in (means, visible))
        filled = torch.where(found, filled, total / count.clamp(min=1))
        found = found | (count > 0)
    return filled.flatten(1)[..., None]
