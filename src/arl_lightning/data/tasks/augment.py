"""How training images are varied: the recipe's keys, and what a transform is.

H, W of an image, uint8 (H, W) or (H, W, 3); its mask is (H, W).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from arl_lightning.errors import UserError

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
