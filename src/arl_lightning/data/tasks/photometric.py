"""The photometric changes of pretraining for one image on the CPU: what a scanner's knobs and a body do to brightness.

Gain, dynamic range, attenuation, haze and shadow as `data.augmentation` defines them, for uint8 (H, W) or (H, W, 3).
Depth runs from 0 at the top row to 1 at the bottom row, across from 0 to 1 likewise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from arl_lightning.data.augmentation import (
    BLACK_LEVEL,
    HAZE_DEPTH,
    NEIGHBOURHOOD,
    NUM_UNIFORMS,
    SHADOW_SOFTNESS,
    SHADOW_START,
    SHADOW_WIDTH,
    Augmentation,
)


@dataclass(frozen=True)
class Photometry:
    """How an image is changed; the defaults change nothing.

    Attributes:
        gain: Factor.
        gamma: Exponent.
        slope: Of the attenuation, in nepers over the whole depth.
        haze: Its brightness.
        shadow: Its darkness.
        phase: Of the haze's wave across.
        centre, width, start: Of the shadow.
    """

    gain: float = 1.0
    gamma: float = 1.0
    slope: float = 0.0
    haze: float = 0.0
    shadow: float = 0.0
    phase: float = 0.0
    centre: float = 0.5
    width: float = 0.1
    start: float = 0.0


def draw_photometry(uniforms: Sequence[float], share: float, augmentation: Augmentation | None = None) -> Photometry:
    """Choose changes from numbers in [0, 1), in the order of pretraining's.

    Args:
        uniforms: NUM_UNIFORMS of them.
        share: Probability of the most frequent changes; the others keep their proportion to these.
        augmentation: Ranges and proportions; pretraining's by default.
    """
    strengths = (augmentation or Augmentation()).strengths
    most = max(probability for probability, _, _ in strengths) or 1.0
    chosen, amounts = uniforms[:5], uniforms[5:10]
    phase, centre, width, start = uniforms[10:NUM_UNIFORMS]
    gain, gamma, slope, haze, shadow = (
        _within(limits, amount) if choice < share * probability / most else neutral
        for (probability, limits, neutral), choice, amount in zip(strengths, chosen, amounts, strict=True)
    )
    width, start = _within(SHADOW_WIDTH, width), _within(SHADOW_START, start)
    return Photometry(gain, gamma, slope, haze, shadow, phase, centre, width, start)


def change_photometry(image: np.ndarray, how: Photometry) -> np.ndarray:
    """Return an image changed as pretraining changes views, rounded to uint8; black stays black but under haze."""
    levels = np.linspace(0, 1, 256, dtype=np.float32) ** how.gamma * how.gain  # (256,)
    if not (how.slope or how.haze or how.shadow):
        return cv2.LUT(image, _to_uint8(levels))
    size = image.shape[:2]
    pixels = levels[image]
    if how.slope:
        pixels = pixels * _like(image, np.exp(how.slope * (_ramp(size[0])[:, None] - 0.5)))
    if how.haze:
        pixels = pixels + _like(image, _haze(size, how) * _tissue(pixels))
    if how.shadow:
        pixels = pixels * _like(image, 1 - how.shadow * _shadow(size, how))
    return _to_uint8(pixels)


def _haze(size: tuple[int, ...], how: Photometry) -> np.ndarray:
    height, width = size
    across = 0.5 + 0.5 * np.cos(2 * np.pi * (_ramp(width) - how.phase))
    return how.haze * np.exp(-_ramp(height) / HAZE_DEPTH)[:, None] * across


def _tissue(pixels: np.ndarray) -> np.ndarray:
    """Return a smooth map, (H, W): 0 where a neighbourhood is black, 1 where it is not."""
    grey = pixels if pixels.ndim == 2 else pixels.mean(axis=2)
    height, width = grey.shape
    coarse = cv2.resize(
        grey, (max(width // NEIGHBOURHOOD, 1), max(height // NEIGHBOURHOOD, 1)), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(np.minimum(coarse / BLACK_LEVEL, 1), (width, height), interpolation=cv2.INTER_LINEAR)


def _shadow(size: tuple[int, ...], how: Photometry) -> np.ndarray:
    height, width = size
    band = np.exp(-0.5 * ((_ramp(width) - how.centre) / how.width) ** 2)
    below = 1 / (1 + np.exp((how.start - _ramp(height)) / SHADOW_SOFTNESS))
    return below[:, None] * band


def _ramp(length: int) -> np.ndarray:
    return np.linspace(0, 1, length, dtype=np.float32)


def _like(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    return field if image.ndim == 2 else field[..., None]  # (H, W) -> (H, W, 1)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _within(limits: tuple[float, float], amount: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * amount
