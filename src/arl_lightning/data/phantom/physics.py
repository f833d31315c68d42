"""Pulse-echo physics in small: scatterers, point spread function, attenuation, envelope and log compression.

For demos and tests only: the parameters are picked for looks and carry no clinical realism.

D depth samples, L scan lines; the trailing 2 is the real and the imaginary (I/Q) part.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from arl_lightning.data.phantom.geometry import FloatArray


@dataclass(frozen=True)
class Beam:
    """How one picture is taken.

    Attributes:
        focus: Depth of the narrowest beam, as a fraction of the imaged depth.
        focal_range: Distance from the focus at which the beam is sqrt(2) wider, as such a fraction.
        lateral_sigma: Width of the point spread function at the focus, in scan lines.
        axial_sigma: Length of the pulse, in depth samples.
        attenuation_db: Loss over the imaged depth, both ways.
        gain_db: Time gain compensation at the imaged depth, rising linearly from 0.
        noise_db: Electronic noise relative to the echo of 0 dB tissue, before compensation.
    """

    focus: float = 0.5
    focal_range: float = 0.35
    lateral_sigma: float = 1.1
    axial_sigma: float = 1.1
    attenuation_db: float = 40.0
    gain_db: float = 36.0
    noise_db: float = -62.0

    def lateral_sigmas(self, num_samples: int) -> FloatArray:
        """Return the lateral width at each depth sample, (D,) in scan lines."""
        depth = np.linspace(0.0, 1.0, num_samples, dtype=np.float32)
        return np.float32(self.lateral_sigma) * np.sqrt(1.0 + ((depth - self.focus) / self.focal_range) ** 2)


def scatterers(num_samples: int, num_lines: int, rng: np.random.Generator) -> FloatArray:
    """Return circular complex Gaussian scatterers of mean power 1, (D, L, 2)."""
    noise = rng.standard_normal((num_samples, num_lines, 2), dtype=np.float32)
    noise *= np.float32(np.sqrt(0.5))
    return noise


def apply_point_spread(field: FloatArray, beam: Beam) -> FloatArray:
    """Convolve (D, L, 2) along depth with the pulse and along lines with a beam whose width depends on depth.

    Both kernels have unit energy, so white scatterers keep their mean power at every depth.
    """
    axial = _unit_energy(np.array([[beam.axial_sigma]], dtype=np.float32))[0]
    pulsed = cv2.sepFilter2D(field, -1, np.ones(1, dtype=np.float32), axial, borderType=cv2.BORDER_REFLECT_101)
    kernels = _unit_energy(beam.lateral_sigmas(field.shape[0])[:, None])  # (D, taps)
    reach = kernels.shape[1] // 2
    num_lines = field.shape[1]
    padded = cv2.copyMakeBorder(pulsed, 0, 0, reach, reach, cv2.BORDER_REFLECT_101)
    spread = padded[:, reach : reach + num_lines] * kernels[:, reach, None, None]
    pair = np.empty_like(spread)
    for tap in range(reach):
        mirrored = 2 * reach - tap  # the kernels are even
        np.add(padded[:, tap : tap + num_lines], padded[:, mirrored : mirrored + num_lines], out=pair)
        pair *= kernels[:, tap, None, None]
        spread += pair
    return spread


def _unit_energy(sigmas: FloatArray) -> FloatArray:
    """Return Gaussian kernels of unit energy out to 3 sigma of the widest; (N, 1) -> (N, taps)."""
    reach = max(1, int(np.ceil(3.0 * float(sigmas.max()))))
    taps = np.arange(-reach, reach + 1, dtype=np.float32)
    kernels = np.exp(-0.5 * (taps / sigmas) ** 2)
    return (kernels / np.sqrt((kernels**2).sum(axis=1, keepdims=True))).astype(np.float32)


def received_db(field: FloatArray, loss_db: FloatArray | None, beam: Beam, rng: np.random.Generator) -> FloatArray:
    """Return the detected envelope in dB, (D, L), after attenuation, electronic noise and time gain compensation.

    Args:
        field: Echoes, (D, L, 2).
        loss_db: Loss down to each sample beyond that of the beam, (D, L); None for none. Negative behind fluid.
        beam: The imaging parameters.
        rng: Draws the electronic noise.
    """
    num_samples, num_lines = field.shape[:2]
    ramp = np.linspace(0.0, 1.0, num_samples, dtype=np.float32)[:, None]
    lost_db = np.float32(beam.attenuation_db) * ramp if loss_db is None else loss_db + beam.attenuation_db * ramp
    power = np.square(_envelope(field)) * np.exp(np.float32(-np.log(10.0) / 10.0) * lost_db)
    noise = rng.standard_exponential((num_samples, num_lines), dtype=np.float32)
    power += np.float32(10.0 ** (beam.noise_db / 10.0)) * noise
    return np.float32(10.0) * np.log10(power + np.float32(1e-12)) + np.float32(beam.gain_db) * ramp


def compress(level_db: FloatArray, dynamic_range_db: float, tissue_grey: float) -> FloatArray:
    """Map levels linearly to grey from 0 to 1: 0 dB to `tissue_grey`, the dynamic range onto the whole scale."""
    return np.clip(level_db * np.float32(1.0 / dynamic_range_db) + np.float32(tissue_grey), 0.0, 1.0)


def homogeneous_envelope(
    num_samples: int,
    num_lines: int,
    rng: np.random.Generator,
    beam: Beam | None = None,
) -> FloatArray:
    """Return the noise-free envelope of homogeneous tissue before log compression, (D, L).

    Its amplitude is Rayleigh distributed at each depth, with mean / std = sqrt(pi / (4 - pi)) = 1.91, times the slow
    trend that attenuation and gain leave.
    """
    beam = beam or Beam()
    field = apply_point_spread(scatterers(num_samples, num_lines, rng), beam)
    ramp = np.linspace(0.0, 1.0, num_samples, dtype=np.float32)[:, None]
    trend = np.float32(10.0) ** (np.float32((beam.gain_db - beam.attenuation_db) / 20.0) * ramp)
    return _envelope(field) * trend


def _envelope(field: FloatArray) -> FloatArray:
    return np.asarray(cv2.magnitude(field[..., 0], field[..., 1]), dtype=np.float32)
