"""Photometric augmentation in batch, on the device, that keeps speckle (paper section 3.1).

Speckle is the texture the encoder should learn: nothing here blurs, inverts or shifts colours. Brightness is only
multiplied by smooth fields, raised to a power, or lifted by a smooth haze, as a scanner's knobs and a body do. Depth
runs down the image from 0 at the top row to 1 at the bottom row, across runs from 0 to 1 likewise.
"""

# B samples, V views, C channels; fields of a view are (B, V, 1, H, W) or broadcast to it

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Haze fades to 1/e of its strength over this share of the depth.
HAZE_DEPTH = 0.3
# Haze appears where the neighbourhood is brighter than this, so that the background stays black.
BLACK_LEVEL = 0.05
# Side of the neighbourhoods in pixels.
NEIGHBOURHOOD = 8
# Half-width range of a shadow, the depths where it may begin, and how softly it does.
SHADOW_WIDTH = (0.05, 0.15)
SHADOW_START = (0.1, 0.7)
SHADOW_SOFTNESS = 0.03


# One to choose and one for the strength of each of five, then haze's phase, the shadow's centre, width and start.
NUM_UNIFORMS = 14


@dataclass(frozen=True)
class Augmentation:
    """Gain, dynamic range, attenuation, haze and shadow, each with a probability of its own.

    Args:
        gain_probability: Share of views whose brightness is scaled.
        gain: Range of the factor.
        dynamic_range_probability: Share of views whose grey curve is bent.
        dynamic_range: Range of the exponent (gamma); above 1 darkens the mid-tones as less log compression does.
        attenuation_probability: Share of views whose brightness changes along depth.
        attenuation: Range of the slope, in nepers over the whole depth; below 0 darkens the far field.
        haze_probability: Share of views with clutter near the transducer.
        haze: Range of its brightness.
        shadow_probability: Share of views with an acoustic shadow.
        shadow: Range of its darkness, 1 is black.
    """

    gain_probability: float = 0.5
    gain: tuple[float, float] = (0.7, 1.3)
    dynamic_range_probability: float = 0.5
    dynamic_range: tuple[float, float] = (0.7, 1.4)
    attenuation_probability: float = 0.5
    attenuation: tuple[float, float] = (-0.7, 0.7)
    haze_probability: float = 0.2
    haze: tuple[float, float] = (0.05, 0.25)
    shadow_probability: float = 0.2
    shadow: tuple[float, float] = (0.3, 0.8)

    @property
    def strengths(self) -> tuple[tuple[float, tuple[float, float], float], ...]:
        """Probability, range and the strength that changes nothing, in the order of `augment`'s numbers."""
        return (
            (self.gain_probability, self.gain, 1.0),
            (self.dynamic_range_probability, self.dynamic_range, 1.0),
            (self.attenuation_probability, self.attenuation, 0.0),
            (self.haze_probability, self.haze, 0.0),
            (self.shadow_probability, self.shadow, 0.0),
        )


def augment(images: Tensor, uniforms: Tensor, augmentation: Augmentation) -> Tensor:
    """Augment each view on its own.

    Args:
        images: (B, V, C, H, W) in [0, 1].
        uniforms: (B, V, NUM_UNIFORMS) in [0, 1).
        augmentation: Probabilities and strengths.

    Returns:
        Images of the same shape, in [0, 1].
    """
    chosen, amount, placed = uniforms.to(images.dtype).split([5, 5, 4], dim=2)
    gain, gamma, slope, haze, shadow = (
        torch.where(chosen[..., i] < probability, _within(limits, amount[..., i]), neutral)
        for i, (probability, limits, neutral) in enumerate(augmentation.strengths)
    )
    phase, centre, width, start = placed.unbind(2)
    images = change_dynamic_range(images, gamma)
    images = attenuate(apply_gain(images, gain), slope)
    images = add_haze(images, haze, phase)
    images = cast_shadow(images, shadow, centre, _within(SHADOW_WIDTH, width), _within(SHADOW_START, start))
    return images.clamp(0, 1)


def apply_gain(images: Tensor, factor: Tensor) -> Tensor:
    """Scale brightness by a factor (B, V)."""
    return images * _field(factor)


def change_dynamic_range(images: Tensor, gamma: Tensor) -> Tensor:
    """Raise images in [0, 1] to a power (B, V); black and white stay."""
    return images ** _field(gamma)


def attenuate(images: Tensor, slope: Tensor) -> Tensor:
    """Scale brightness by exp(slope * (depth - 1/2)), slope (B, V): a time-gain compensation set wrongly."""
    return images * torch.exp(_field(slope) * (_depth(images) - 0.5))


def add_haze(images: Tensor, strength: Tensor, phase: Tensor) -> Tensor:
    """Add smooth clutter, strength and phase (B, V): strongest at the top, one wave across, none on black."""
    across = 0.5 + 0.5 * torch.cos(2 * math.pi * (_across(images) - _field(phase)))
    haze = _field(strength) * torch.exp(-_depth(images) / HAZE_DEPTH) * across
    return images + haze * _tissue(images)


def cast_shadow(images: Tensor, strength: Tensor, centre: Tensor, width: Tensor, start: Tensor) -> Tensor:
    """Darken a band with a Gaussian profile across, below the depth `start`; all arguments (B, V)."""
    band = torch.exp(-0.5 * ((_across(images) - _field(centre)) / _field(width)) ** 2)
    below = torch.sigmoid((_depth(images) - _field(start)) / SHADOW_SOFTNESS)
    return images * (1 - _field(strength) * band * below)


def _tissue(images: Tensor) -> Tensor:
    """Return a smooth map, (B, V, 1, H, W): 0 where a neighbourhood is black, 1 where it is not."""
    height, width = images.shape[-2:]
    grey = images.mean(dim=2)  # (B, V, C, H, W) -> (B, V, H, W)
    coarse = F.adaptive_avg_pool2d(grey, (max(height // NEIGHBOURHOOD, 1), max(width // NEIGHBOURHOOD, 1)))
    smooth = F.interpolate((coarse / BLACK_LEVEL).clamp(max=1), (height, width), mode="bilinear", align_corners=False)
    return smooth.unsqueeze(2)


def _field(values: Tensor) -> Tensor:
    return values[..., None, None, None]  # (B, V) -> (B, V, 1, 1, 1)


def _depth(images: Tensor) -> Tensor:
    return torch.linspace(0, 1, images.shape[-2], dtype=images.dtype, device=images.device)[:, None]  # (H, 1)


def _across(images: Tensor) -> Tensor:
    return torch.linspace(0, 1, images.shape[-1], dtype=images.dtype, device=images.device)  # (W,)


def _within(limits: tuple[float, float], amount: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * amount
