"""The training transform: an Albumentations pipeline that a seed determines.

S side in pixels; images are uint8 (H, W) or (H, W, 3), masks uint8 (H, W).
"""

import math
import random
from typing import Any

import albumentations as A  # type: ignore[import-untyped]
import cv2
import numpy as np

from arl_lightning.data.augmentation import NUM_UNIFORMS
from arl_lightning.data.tasks.augment import Augment, Pair
from arl_lightning.data.tasks.fit import Fit, pad_square
from arl_lightning.data.tasks.photometric import Photometry, change_photometry, draw_photometry
from arl_lightning.data.views import Box, CropSource

CUTOUT = (0.1, 0.3)  # sides of the rectangle, as shares of the image's


class TrainTransform:
    """Rotates, crops to a square, flips, changes brightness and cuts out, the mask with the image where it applies.

    Args:
        augment: What is done, how much and how often.
        image_size: S.
        fit: Whose proportions crops have.
    """

    def __init__(self, augment: Augment, image_size: int, fit: Fit) -> None:
        self.fit = fit
        steps: list[A.BasicTransform] = []
        if augment.rotate:
            steps.append(A.Rotate((-augment.rotate, augment.rotate), border_mode=cv2.BORDER_CONSTANT, p=1.0))
        steps.append(FittedCrop(image_size, augment.crop_scale, augment.crop_ratio, squash=fit == "squash"))
        if augment.flip:
            steps.append(A.HorizontalFlip(p=augment.flip))
        if augment.ultrasound:
            steps.append(Ultrasound(augment.ultrasound))
        if augment.cutout:
            steps.append(A.CoarseDropout((1, 1), CUTOUT, CUTOUT, fill=0, p=augment.cutout))
        self.pipeline = A.Compose(steps)

    def __call__(self, image: np.ndarray, mask: np.ndarray | None, seed: int) -> Pair:
        """Return the varied image and mask."""
        # One stream for all steps: `set_random_seed` would give each the same, and flips would follow the crops' sizes.
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311
        targets = {"image": image} if mask is None else {"image": image, "mask": mask}
        if self.fit == "pad":
            targets = {name: pad_square(pixels) for name, pixels in targets.items()}
        varied = self.pipeline(**targets)
        return varied["image"], varied.get("mask")


class FittedCrop(A.DualTransform):
    """A random resized crop whose ratio is measured in the proportions of validation.

    Args:
        size: S.
        scale: Smallest and largest share of the area of the image, or of its largest square.
        ratio: Least and most width over height.
        squash: Whether the whole image is what validation shows, and shows as a square; otherwise a square is.
    """

    def __init__(self, size: int, scale: tuple[float, float], ratio: tuple[float, float], squash: bool) -> None:
        super().__init__(p=1.0)
        self.size, self.scale, self.ratio, self.squash = size, scale, ratio, squash

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw where the crop lies."""
        height, width = params["shape"][:2]
        neutral = width / height if self.squash else 1.0
        return {"box": self._box(height, width, neutral, [self.py_random.random() for _ in range(4)])}

    def _box(self, height: int, width: int, neutral: float, draws: list[float]) -> Box:
        """Return a box: its area uniform, its ratio log-uniform in what the limits and the image allow at that area."""
        share, shape, down, right = draws
        whole = height * width if self.squash else min(height, width) ** 2
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * share) * whole
        low, high = (min(max(area / height**2, neutral * limit), width**2 / area) for limit in self.ratio)
        ratio = low * (high / low) ** shape
        crop_height = min(max(round(math.sqrt(area / ratio)), 1), height)
        crop_width = min(max(round(math.sqrt(area * ratio)), 1), width)
        return Box(
            int(down * (height - crop_height + 1)), int(right * (width - crop_width + 1)), crop_height, crop_width
        )

    def apply(self, img: np.ndarray, *args: Any, box: Box, **params: Any) -> np.ndarray:
        """Cut the crop out of an image, so that speckle stays fine-grained."""
        return CropSource(img).cut(box, self.size)

    def apply_to_mask(self, mask: np.ndarray, *args: Any, box: Box, **params: Any) -> np.ndarray:
        """Cut the crop out of a mask, by the nearest pixel."""
        part = mask[box.top : box.top + box.height, box.left : box.left + box.width]
        return cv2.resize(part, (self.size, self.size), interpolation=cv2.INTER_NEAREST_EXACT)


class Ultrasound(A.ImageOnlyTransform):
    """Pretraining's gain, dynamic range, attenuation, haze and shadow.

    Args:
        share: Probability of each of the first three; 0.4 of it for haze and for shadow.
    """

    def __init__(self, share: float) -> None:
        super().__init__(p=1.0)
        self.share = share

    def get_params(self) -> dict[str, Any]:
        """Draw what is changed, and how much."""
        return {"how": draw_photometry(self.random_generator.random(NUM_UNIFORMS).tolist(), self.share)}

    def apply(self, img: np.ndarray, *args: Any, how: Photometry, **params: Any) -> np.ndarray:
        """Change an image."""
        return change_photometry(img, how)
