"""Which patches the student does not see (paper section 3.4, "we randomly mask a subset of input patches").

Both masks are pure functions of uniform noise, so that a sample's mask depends on its own seed alone. Every image hides
the same number of patches. The paper gives neither the ratio nor the kind; 75% at random is MAE's.

Legend: B images, N patches, R candidate blocks.
"""

import torch
from torch import Tensor

NUM_BLOCKS = 24  # more than enough to cover any ratio below one
BLOCK_AREA = (0.04, 0.16)  # of the grid
BLOCK_ASPECT = (0.5, 2.0)


def num_hidden_patches(num_patches: int, mask_ratio: float) -> int:
    """Return how many of N patches a ratio hides.

    Raises:
        ValueError: If that leaves none visible or hides none.
    """
    num_hidden = round(num_patches * mask_ratio)
    if not 0 < num_hidden < num_patches:
        raise ValueError(f"mask_ratio {mask_ratio} hides {num_hidden} of {num_patches} patches; both kinds are needed")
    return num_hidden


def random_mask(noise: Tensor, mask_ratio: float) -> Tensor:
    """Hide the patches with the least noise.

    Args:
        noise: (B, N) uniform in [0, 1).
        mask_ratio: Hidden fraction.

    Returns:
        (B, N) bool, True where hidden.
    """
    return _hide_lowest(noise, num_hidden_patches(noise.shape[1], mask_ratio))


def block_mask(noise: Tensor, grid_size: tuple[int, int], mask_ratio: float) -> Tensor:
    """Hide rectangular blocks, one after the other, until the ratio is reached.

    Args:
        noise: (B, N + 4 * NUM_BLOCKS) uniform in [0, 1).
        grid_size: Rows and columns, N in all.
        mask_ratio: Hidden fraction.

    Returns:
        (B, N) bool, True where hidden.
    """
    rows, columns = grid_size
    ties, area, aspect, top, left = noise.split((rows * columns, *[NUM_BLOCKS] * 4), dim=1)
    area = (BLOCK_AREA[0] + area * (BLOCK_AREA[1] - BLOCK_AREA[0])) * rows * columns
    aspect = BLOCK_ASPECT[0] * (BLOCK_ASPECT[1] / BLOCK_ASPECT[0]) ** aspect
    height, width = (area * aspect).sqrt().clamp(1, rows), (area / aspect).sqrt().clamp(1, columns)
    covered = _spans(top, height, rows)[..., :, None] & _spans(left, width, columns)[..., None, :]  # (B, R, rows, cols)
    # A patch's score is the first block that covers it; within a block, and outside of all, chance decides.
    order = torch.arange(NUM_BLOCKS, device=noise.device)[:, None]
    first = torch.where(covered.flatten(2), order, NUM_BLOCKS).amin(1)  # (B, R, N) -> (B, N)
    return _hide_lowest(first + ties, num_hidden_patches(rows * columns, mask_ratio))


def _spans(position: Tensor, length: Tensor, size: int) -> Tensor:
    """Return (B, R, size) bool: the cells of an axis that intervals placed at random within it cover."""
    start = (position * (size - length)).round()
    cell = torch.arange(size, device=position.device)
    return (cell >= start[..., None]) & (cell < (start + length.round())[..., None])


def _hide_lowest(score: Tensor, num_hidden: int) -> Tensor:
    hidden = score.argsort(dim=1)[:, :num_hidden]
    return torch.zeros(score.shape, dtype=torch.bool, device=score.device).scatter(1, hidden, True)
