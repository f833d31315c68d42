"""The segmentation objective: cross-entropy of the pixels and soft Dice of the regions (paper appendix B).

The paper minimises "the unweighted sum between cross-entropy loss and Dice loss" of Ma et al. 2024.

Legend: B images, K classes (background first), H rows and W columns of pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from arl_lightning.objectives.precision import full_precision

SMOOTHING = 1.0  # pixels


def dice_loss(logits: Tensor, target: Tensor, smoothing: float = SMOOTHING) -> Tensor:
    """Return `1 - (2 sum p g + s) / (sum p^2 + sum g^2 + s)`, averaged over images and structures.

    The squares in the denominator, and a Dice for each image, are Ma et al.'s (Nature Communications 15:654). They
    segment one structure against the background; with more, each has its own Dice under a softmax. Background has
    none: it fills most of an ultrasound image, would be near 1 in any case, and cross-entropy covers it.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64, 0 for background.
        smoothing: s, in pixels, ours. It makes an image without the structure cost nothing once less than about a
            pixel is predicted, with a gradient on the way there; against structures of hundreds of pixels it is small.

    Raises:
        ValueError: If there is no class beside the background.
    """
    num_classes = logits.shape[1]
    if num_classes < 2:
        raise ValueError("Dice needs a class beside the background")
    probabilities = full_precision(logits).softmax(1)[:, 1:].flatten(2)  # (B, K, H, W) -> (B, K - 1, H * W)
    truth = F.one_hot(target, num_classes).movedim(-1, 1)[:, 1:].flatten(2).to(probabilities.dtype)
    both = (probabilities * truth).sum(-1)
    total = probabilities.square().sum(-1) + truth.sum(-1)  # the truth is its own square
    return torch.mean(1 - (2 * both + smoothing) / (total + smoothing))


def pixel_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy averaged over images and pixels.

    `F.cross_entropy`'s value; on a GPU that has no deterministic form for images.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64, 0 for background.
    """
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1)  # (B, H, W, K) -> (B, K, H, W)
    return -(full_precision(logits).log_softmax(1) * truth).sum(1).mean()
