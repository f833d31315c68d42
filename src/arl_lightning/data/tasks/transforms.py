"""What happens to an image and its mask before they are batched: augmentation in training, a mere fit otherwise.

S side in pixels; an image is uint8 (H, W) or (H, W, 3) and becomes (S, S) or (S, S, 3), its mask (H, W) becomes (S, S).
Nothing is ever turned upside down: in ultrasound down is depth, away from the transducer.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from arl_lightning.data.tasks.fit import Fit, fit_image, fit_mask
from arl_lightning.errors import UserError

# albumentations, imported where it is used, would ask the network for a newer version of itself.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

MAX_ROTATION = 45.0  # degrees; beyond, left and right would become top and bottom

Pair = tuple[np.ndarray, np.ndarray | None]
Transform = Callable[[np.ndarray, np.ndarray | None, int], Pair]


@dataclass(frozen=True)
class Augment:
    """How training images are varied.

    Args:
        enabled: Whether they are at all; without, they are brought to size as in validation.
        crop_scale: Smallest and largest area of a crop, as a share of what `fit` shows in validation.
        crop_ratio: Least and most width over height of a crop, in units of what `fit` shows undistorted.
        flip: Probability of a flip left to right.
        rotate: Largest angle in degrees, to either side; 0 for none.
        ultrasound: Probability of each of gain, dynamic range and attenuation, as in pretraining; haze and shadow have
            0.4 of it.
        cutout: Probability of a black rectangle, 0.1 to 0.3 of the image wide and high.
    """

    enabled: bool = True
    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rotate: float = 0.0
    ultrasound: float = 0.0
    cutout: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(f"augment.crop_scale {low:g} {high:g}: must be two shares, 0 < low <= high <= 1")
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise UserError(f"augment.crop_ratio {low:g} {high:g}: must be two numbers, 0 < low <= high")
        if not 0 <= self.rotate <= MAX_ROTATION:
            raise UserError(f"augment.rotate {self.rotate:g}: must be 0 to {MAX_ROTATION:g} degrees")
        for name in ("flip", "ultrasound", "cutout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augment.{name} {getattr(self, name):g}: must be a probability, 0 to 1")


# Appendix B names a flip and a random resized crop, without a scale; this is what the field calls by that name.
PROBE = Augment(crop_scale=(0.08, 1.0))


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
