"""Images to patch pixels and back.

Legend: B images, C channels, N = rows * columns patches of p x p pixels, P = p * p * C.
"""

from torch import Tensor


def patchify(image: Tensor, patch_size: int) -> Tensor:
    """Cut (B, C, H, W) images into (B, N, P) patches, row by row.

    Raises:
        ValueError: If the patch size does not divide the image.
    """
    batch, channels, height, width = image.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"image of {height} x {width} pixels is not divisible by patches of {patch_size}")
    rows, columns = height // patch_size, width // patch_size
    grid = image.reshape(batch, channels, rows, patch_size, columns, patch_size)
    # (B, C, rows, p, columns, p) -> (B, rows, columns, p, p, C) -> (B, N, P)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch_size**2 * channels)


def unpatchify(patches: Tensor, grid_size: tuple[int, int], patch_size: int) -> Tensor:
    """Undo `patchify`: (B, N, P) patches to (B, C, H, W) images.

    Args:
        patches: (B, N, P).
        grid_size: Rows and columns of patches.
        patch_size: p.
    """
    rows, columns = grid_size
    channels = patches.shape[-1] // patch_size**2
    grid = patches.reshape(-1, rows, columns, patch_size, patch_size, channels)
    # (B, rows, columns, p, p, C) -> (B, C, rows, p, columns, p) -> (B, C, H, W)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, rows * patch_size, columns * patch_size)
