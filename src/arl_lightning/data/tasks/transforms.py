"""What happens to an image and its mask before they are batched: augmentation in training, a mere fit otherwise.

S side in pixels; an image is uint8 (H, W) or (H, W, 3) and becomes (S, S) or (S, S, 3), its mask (H, W) becomes (S, S).
Nothing is ever turned upside down: in ultrasound down is depth, away from the transducer.
"""

import os

import numpy as np

from arl_lightning.data.tasks.augment import Augment, Pair, Transform
from arl_lightning.data.tasks.fit import Fit, fit_image, fit_mask

# albumentations, imported where it is used, would ask the network for a newer version of itself.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def eval_transform(fit: Fit, image_size: int) -> Transform:
    """Return what brings an image and its mask to size; its seed is not used."""

    def transform(image: np.ndarray, mask: np.ndarray | None, seed: int) -> Pair:
        fitted = None if mask is None else fit_mask(mask, fit, image_size)
        return fit_image(image, fit, image_size), fitted

    return transform


def train_transform(augment: Augment, image_size: int, fit: Fit = "squash") -> Transform:
    """Return what varies an image and its mask together, by a seed alone.

    Crops show things in the proportions that `fit` gives them in validation.
    """
    if not augment.enabled:
        return eval_transform(fit, image_size)
    from arl_lightning.data.tasks.augmenting import TrainTransform  # albumentations takes seconds to import

    return TrainTransform(augment, image_size, fit)
