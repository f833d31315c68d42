"""From a batch of uint8 crops to what the networks see; every random draw is a function of the samples' own seeds.

Legend: B images, G global views, L local views, C channels, N patches. Views are stacked view by view: row `g * B + b`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from arl_lightning.data.augmentation import NUM_UNIFORMS, Augmentation, augment
from arl_lightning.data.batch import PretrainingBatch
from arl_lightning.data.draws import uniform
from arl_lightning.models.sampling import visible_positions
from arl_lightning.objectives.masking import NUM_BLOCKS, block_mask, num_hidden_patches, random_mask
from arl_lightning.pretraining.options import Masking, Pixels

# Streams of a sample's seed, one for each use.
GLOBAL_PHOTOMETRY, LOCAL_PHOTOMETRY, MASKS, ANATOMY_DROPOUT = range(4)


@dataclass(frozen=True)
class Views:
    """What the networks see.

    Attributes:
        global_images: (G * B, C, H, W), augmented and normalised.
        local_images: (L * B, C, h, w), or None.
        anatomy: (B,) vocabulary indices.
        mask: (G * B, N) bool, True where hidden; None without masking.
        num_visible: V patches of each view; None without masking.
    """

    global_images: Tensor
    local_images: Tensor | None
    anatomy: Tensor
    mask: Tensor | None
    num_visible: int | None

    @property
    def visible(self) -> Tensor | None:
        """(G * B, V) positions of visible patches; None without masking."""
        return None if self.mask is None else visible_positions(self.mask, self.num_visible)


def make_views(
    batch: PretrainingBatch,
    anatomy: Tensor,
    augmentation: Augmentation,
    pixels: Pixels,
    masking: Masking | None,
    grid_size: tuple[int, int],
    dtype: torch.dtype,
) -> Views:
    """Augment, normalise and mask a batch.

    Args:
        batch: Crops and seeds.
        anatomy: (B,) vocabulary indices.
        augmentation: Photometric augmentation.
        pixels: What the network takes for zero and one.
        masking: None to show everything.
        grid_size: Rows and columns of a global view's patches.
        dtype: Of the images.
    """
    seeds, crops, local_crops = batch["seed"], batch["global_views"], batch["local_views"]
    num_patches = grid_size[0] * grid_size[1]
    local_images = None
    if local_crops.shape[1] > 0:
        local_images = stack_views(_augmented(local_crops, seeds, LOCAL_PHOTOMETRY, augmentation, dtype), pixels)
    return Views(
        stack_views(_augmented(crops, seeds, GLOBAL_PHOTOMETRY, augmentation, dtype), pixels),
        local_images,
        anatomy,
        None if masking is None else draw_mask(seeds, crops.shape[1], grid_size, masking),
        None if masking is None else num_patches - num_hidden_patches(num_patches, masking.ratio),
    )


def _augmented(crops: Tensor, seeds: Tensor, stream: int, augmentation: Augmentation, dtype: torch.dtype) -> Tensor:
    """Scale (B, V, C, H, W) uint8 crops to [0, 1] and augment them."""
    batch, num_views = crops.shape[:2]
    uniforms = uniform(seeds, num_views * NUM_UNIFORMS, stream, dtype)
    return augment(crops.to(dtype) / 255, uniforms.view(batch, num_views, NUM_UNIFORMS), augmentation)


def stack_views(images: Tensor, pixels: Pixels) -> Tensor:
    """Normalise (B, V, C, H, W) images in [0, 1] and stack them view by view, (V * B, C, H, W)."""
    return ((images - pixels.mean) / pixels.std).transpose(0, 1).flatten(0, 1)


def draw_mask(seeds: Tensor, num_views: int, grid_size: tuple[int, int], masking: Masking) -> Tensor:
    """Draw a mask for each view of each image, (num_views * B, N) bool, True where hidden."""
    num_noise = grid_size[0] * grid_size[1] + (4 * NUM_BLOCKS if masking.kind == "block" else 0)
    # In float64 two patches never tie, so the order is the same on every device.
    noise = uniform(seeds, num_views * num_noise, MASKS, torch.float64)
    noise = noise.view(len(seeds), num_views, num_noise).transpose(0, 1).flatten(0, 1)  # -> (G * B, num_noise)
    if masking.kind == "block":
        return block_mask(noise, grid_size, masking.ratio)
    return random_mask(noise, masking.ratio)


def drop_anatomy(anatomy: Tensor, seeds: Tensor, probability: float, other: int) -> Tensor:
    """Turn some of (B,) anatomies into `other`, so that the encoder also learns to do without a label."""
    dropped = uniform(seeds, 1, ANATOMY_DROPOUT)[:, 0] < probability
    return anatomy.masked_fill(dropped, other)
