"""Where beams run in the scene, and which beam sample each pixel shows.

For demos and tests only.

Scene coordinates are in units of the imaged depth: x to the right from the middle, z downwards from the probe's face at
the middle line. H, W pixels; D depth samples, L scan lines of the beam grid.
"""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class Geometry(Protocol):
    """A probe's field of view, fitted into a picture.

    Attributes:
        probe: `linear`, `convex` or `sector`.
        pixels_per_depth: Pixels that the imaged depth spans, along either axis.
        half_width: Half the field's width at mid depth, in scene units.
    """

    @property
    def probe(self) -> str: ...  # noqa: D102

    @property
    def pixels_per_depth(self) -> float: ...  # noqa: D102

    @property
    def half_width(self) -> float: ...  # noqa: D102

    def beam_coordinates(self, num_samples: int, num_lines: int) -> tuple[FloatArray, FloatArray]:
        """Return x and z of every beam sample, (D, L) each."""

    def pixel_maps(self, height: int, width: int) -> tuple[FloatArray, FloatArray]:
        """Return the line and the depth of every pixel, (H, W) each, both from 0 to 1 within the field."""


@dataclass(frozen=True)
class LinearGeometry:
    """Parallel beams: a rectangle, as high as the picture."""

    pixels_per_depth: float
    half_width: float
    probe: str = "linear"

    def beam_coordinates(self, num_samples: int, num_lines: int) -> tuple[FloatArray, FloatArray]:
        """Return x and z of every beam sample, (D, L) each."""
        x = np.linspace(-self.half_width, self.half_width, num_lines, dtype=np.float32)
        z = np.linspace(0.0, 1.0, num_samples, dtype=np.float32)
        return np.tile(x, (num_samples, 1)), np.repeat(z[:, None], num_lines, axis=1)

    def pixel_maps(self, height: int, width: int) -> tuple[FloatArray, FloatArray]:
        """Return the line and the depth of every pixel, (H, W) each."""
        x, z = _pixel_axes(height, width, self.pixels_per_depth)
        lines = x / (2.0 * self.half_width) + 0.5
        return np.tile(lines, (height, 1)), np.repeat(z[:, None], width, axis=1)


@dataclass(frozen=True)
class FanGeometry:
    """Diverging beams from an arc: a convex probe, or with a radius near 0 a sector.

    Attributes:
        radius: Of the probe's face, in scene units.
        half_angle: Between the middle and the outermost beam, in radians.
        top: Pixels between the picture's upper edge and the highest point of the field.
    """

    pixels_per_depth: float
    radius: float
    half_angle: float
    top: float
    probe: str

    @property
    def half_width(self) -> float:
        """Half the field's width at mid depth, in scene units."""
        return (self.radius + 0.5) * float(np.sin(self.half_angle))

    def beam_coordinates(self, num_samples: int, num_lines: int) -> tuple[FloatArray, FloatArray]:
        """Return x and z of every beam sample, (D, L) each."""
        angle = np.linspace(-self.half_angle, self.half_angle, num_lines, dtype=np.float32)
        reach = np.linspace(self.radius, self.radius + 1.0, num_samples, dtype=np.float32)
        return np.outer(reach, np.sin(angle)), np.outer(reach, np.cos(angle)) - np.float32(self.radius)

    def pixel_maps(self, height: int, width: int) -> tuple[FloatArray, FloatArray]:
        """Return the line and the depth of every pixel, (H, W) each."""
        x, z = _pixel_axes(height, width, self.pixels_per_depth)
        # The face is an arc: its ends lie above the point at the middle line, at radius * cos(half_angle).
        z = z + np.float32(self.radius * np.cos(self.half_angle) - self.top / self.pixels_per_depth)
        reach, angle = cv2.cartToPolar(np.repeat(z[:, None], width, axis=1), np.tile(x, (height, 1)))
        angle = np.where(angle > np.pi, angle - np.float32(2.0 * np.pi), angle)
        return angle / np.float32(2.0 * self.half_angle) + np.float32(0.5), reach - np.float32(self.radius)


def fit_geometry(probe: str, height: int, width: int, rng: np.random.Generator) -> Geometry:
    """Return a random field of view of a kind of probe, fitted into a picture of (H, W) square pixels."""
    if probe == "linear":
        margin = rng.choice([1.0, rng.uniform(0.75, 1.0)], p=[0.7, 0.3])
        return LinearGeometry(pixels_per_depth=float(height), half_width=float(margin) * width / (2.0 * height))
    radius, half_angle = _fan_shape(probe, rng)
    span = radius + 1.0 - radius * np.cos(half_angle)
    # Beams leave the picture at its sides rather than shrink the fan below 80 % of the height.
    scale = max(min(height / span, width / (2.0 * (radius + 1.0) * np.sin(half_angle))), 0.8 * height / span)
    top = rng.uniform(0.0, 1.0) * (height - scale * span)
    return FanGeometry(float(scale), float(radius), float(half_angle), float(top), probe)


def _fan_shape(probe: str, rng: np.random.Generator) -> tuple[float, float]:
    if probe == "sector":
        return rng.uniform(0.01, 0.04), np.deg2rad(rng.uniform(36.0, 45.0))
    return rng.uniform(0.3, 0.6), np.deg2rad(rng.uniform(28.0, 38.0))


def scan_convert(beam_image: np.ndarray, geometry: Geometry, height: int, width: int) -> np.ndarray:
    """Return the (H, W) picture of a (D, L) beam image by bilinear interpolation, 0 outside the field."""
    num_samples, num_lines = beam_image.shape
    lines, depths = geometry.pixel_maps(height, width)
    lines *= np.float32(num_lines - 1)
    depths *= np.float32(num_samples - 1)
    return cv2.remap(beam_image, lines, depths, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def _pixel_axes(height: int, width: int, pixels_per_depth: float) -> tuple[FloatArray, FloatArray]:
    x = (np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2.0)) / np.float32(pixels_per_depth)
    z = np.arange(height, dtype=np.float32) / np.float32(pixels_per_depth)
    return x, z
