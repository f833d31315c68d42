"""Brings an image of any shape to a square and a prediction on the square back to the image's shape.

S side of the square in pixels, K channels; `fit` says what becomes of the shape:

    squash  both sides are scaled on their own: nothing is lost, proportions change
    pad     the image lies in the middle of a black square: nothing is lost, pixels are
    crop    the middle square, as long as the shorter side: proportions stay, the ends are lost
"""

from typing import Literal

import cv2
import numpy as np

from arl_lightning.data.views import Box, CropSource

Fit = Literal["squash", "pad", "crop"]


def fit_image(image: np.ndarray, fit: Fit, size: int) -> np.ndarray:
    """Return an image, uint8 (H, W) or (H, W, 3), as a square, (S, S) or (S, S, 3)."""
    square = _fitted(image, fit)
    return CropSource(square).cut(Box(0, 0, square.shape[0], square.shape[1]), size)


def fit_mask(mask: np.ndarray, fit: Fit, size: int) -> np.ndarray:
    """Return a mask (H, W) as a square, (S, S), each pixel the value of the nearest."""
    return cv2.resize(_fitted(mask, fit), (size, size), interpolation=cv2.INTER_NEAREST_EXACT)


def unfit(square: np.ndarray, fit: Fit, size: tuple[int, int]) -> np.ndarray:
    """Bring a prediction on a square back to its image's shape; what the square lacks is 0.

    Args:
        square: (S, S) or (S, S, K). Whole numbers are taken from the nearest pixel, others are interpolated.
        fit: How the image became the square.
        size: Height and width of the image.
    """
    height, width = size
    interpolation = cv2.INTER_LINEAR if square.dtype.kind == "f" else cv2.INTER_NEAREST_EXACT
    if fit == "squash":
        return cv2.resize(square, (width, height), interpolation=interpolation)
    side = max(size) if fit == "pad" else min(size)
    scaled = cv2.resize(square, (side, side), interpolation=interpolation)
    top, left = abs(height - side) // 2, abs(width - side) // 2
    if fit == "pad":
        return np.ascontiguousarray(scaled[top : top + height, left : left + width])
    whole = np.zeros((height, width, *square.shape[2:]), square.dtype)
    whole[top : top + side, left : left + side] = scaled
    return whole


def pad_square(image: np.ndarray) -> np.ndarray:
    """Lay an image, (H, W) or (H, W, 3), in the middle of a black square."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return cv2.copyMakeBorder(image, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=0)


def _fitted(image: np.ndarray, fit: Fit) -> np.ndarray:
    if fit == "pad":
        return pad_square(image)
    if fit == "squash":
        return image
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]
