"""Draws B-mode-like pictures of cartoon anatomies.

For demos and tests only: no clinical realism, and nothing learnt from these pictures carries over to patients.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from arl_lightning.data.anatomy import ANATOMIES, OTHER, AnatomyVocabulary
from arl_lightning.data.phantom import abdomen, superficial, thorax
from arl_lightning.data.phantom.canvas import Canvas
from arl_lightning.data.phantom.geometry import FloatArray, fit_geometry, scan_convert
from arl_lightning.data.phantom.physics import Beam, apply_point_spread, compress, received_db, scatterers
from arl_lightning.errors import UserError

MIN_SIDE = 16
HEIGHTS, WIDTHS = (64, 960), (64, 1280)
# Mean and standard deviation of the sizes in pixels, like the paper's corpus.
HEIGHT_MOMENTS, WIDTH_MOMENTS = (503.0, 167.0), (656.0, 238.0)


@dataclass(frozen=True)
class Scene:
    """How one anatomy is looked at.

    Attributes:
        paint: Draws its structures.
        probes: The kinds of probe in use, one of them picked at random.
        depth_mm: Least and greatest imaged depth.
    """

    paint: Callable[[Canvas, np.random.Generator], None]
    probes: tuple[str, ...]
    depth_mm: tuple[float, float]


SCENES: dict[str, Scene] = {
    "abdominal": Scene(abdomen.abdominal, ("convex",), (120.0, 180.0)),
    "aorta": Scene(abdomen.aorta, ("convex",), (100.0, 160.0)),
    "bladder": Scene(abdomen.bladder, ("convex",), (110.0, 160.0)),
    "breast": Scene(superficial.breast, ("linear",), (30.0, 50.0)),
    "cardiac": Scene(thorax.cardiac, ("sector",), (130.0, 180.0)),
    "doppler": Scene(superficial.doppler, ("linear",), (25.0, 45.0)),
    "esophageal": Scene(thorax.esophageal, ("convex",), (40.0, 70.0)),
    "gallbladder": Scene(abdomen.gallbladder, ("convex",), (90.0, 140.0)),
    "kidney": Scene(abdomen.kidney, ("convex",), (100.0, 150.0)),
    "liver": Scene(abdomen.liver, ("convex",), (130.0, 180.0)),
    "lung": Scene(thorax.lung, ("convex", "linear"), (60.0, 120.0)),
    "muscle": Scene(superficial.muscle, ("linear",), (35.0, 60.0)),
    "oncology": Scene(abdomen.oncology, ("convex",), (100.0, 160.0)),
    "soft_tissue": Scene(superficial.soft_tissue, ("linear",), (20.0, 40.0)),
    "testicle": Scene(superficial.testicle, ("linear",), (35.0, 55.0)),
    "thyroid": Scene(superficial.thyroid, ("linear",), (30.0, 45.0)),
    OTHER: Scene(thorax.other, ("convex",), (110.0, 170.0)),
}


@dataclass(frozen=True)
class Phantom:
    """A generated picture with what is known of it.

    Attributes:
        image: uint8 grey, (H, W).
        anatomy: Its name in the vocabulary.
        probe: `linear`, `convex` or `sector`.
        spacing_mm: Pixel height and width.
    """

    image: np.ndarray
    anatomy: str
    probe: str
    spacing_mm: tuple[float, float]


def generate(
    anatomy: str, seed: int | np.random.Generator | np.random.SeedSequence, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return a B-mode-like picture of a cartoon anatomy, uint8 (H, W). For demos and tests only.

    Args:
        anatomy: A name of the vocabulary, or `other`.
        seed: Determines the picture entirely; a generator is drawn from.
        size: Height and width in pixels; None draws them.

    Raises:
        UserError: If the anatomy is unknown or a side is too short.
    """
    return generate_phantom(anatomy, seed, size).image


def generate_phantom(
    anatomy: str, seed: int | np.random.Generator | np.random.SeedSequence, size: tuple[int, int] | None = None
) -> Phantom:
    """Return what `generate` does, with the probe and the pixel spacing. For demos and tests only.

    Raises:
        UserError: If the anatomy is unknown or a side is too short.
    """
    rng = np.random.default_rng(seed)
    name = AnatomyVocabulary(ANATOMIES).canonical(anatomy)
    scene = SCENES[name]
    height, width = draw_size(rng) if size is None else size
    if min(height, width) < MIN_SIDE:
        raise UserError(f"size: {height} x {width} is too small for a phantom, give at least {MIN_SIDE} pixels a side")
    geometry = fit_geometry(str(rng.choice(scene.probes)), height, width, rng)
    canvas = Canvas(geometry, *beam_grid(height, width))
    scene.paint(canvas, rng)
    canvas.weather(rng)
    beam_image = np.rint(255.0 * draw_beam_image(canvas, rng)).astype(np.uint8)
    spacing = float(rng.uniform(*scene.depth_mm)) / geometry.pixels_per_depth
    return Phantom(scan_convert(beam_image, geometry, height, width), name, geometry.probe, (spacing, spacing))


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw a height and a width whose logarithms are normal and correlated, clipped to what the corpus holds."""
    common, own = rng.standard_normal(2)
    height = _log_normal(HEIGHT_MOMENTS, float(common))
    width = _log_normal(WIDTH_MOMENTS, float(0.7 * common + np.sqrt(1.0 - 0.7**2) * own))
    return int(np.clip(height, *HEIGHTS)), int(np.clip(width, *WIDTHS))


def _log_normal(moments: tuple[float, float], deviate: float) -> float:
    mean, std = moments
    variance = np.log1p((std / mean) ** 2)
    return float(np.exp(np.log(mean) - 0.5 * variance + np.sqrt(variance) * deviate))


def beam_grid(height: int, width: int) -> tuple[int, int]:
    """Return depth samples and scan lines for a picture, few enough to be quick on a large one."""
    return int(np.clip(0.9 * height, 64, 448)), int(np.clip(0.55 * width, 48, 288))


def draw_beam(rng: np.random.Generator) -> Beam:
    """Draw the settings of a scan; the compensation is a few dB off the attenuation, as by a hand on the sliders."""
    attenuation = float(rng.uniform(30.0, 45.0))
    return Beam(
        focus=float(rng.uniform(0.3, 0.7)),
        focal_range=float(rng.uniform(0.25, 0.5)),
        lateral_sigma=float(rng.uniform(0.9, 1.2)),
        axial_sigma=float(rng.uniform(0.9, 1.2)),
        attenuation_db=attenuation,
        gain_db=attenuation - float(rng.uniform(-2.0, 8.0)),
        noise_db=float(rng.uniform(-68.0, -58.0)),
    )


def draw_beam_image(canvas: Canvas, rng: np.random.Generator) -> FloatArray:
    """Return the compressed picture of a canvas in beam space, (D, L), from 0 to 1."""
    level_db = image_level_db(canvas, draw_beam(rng), rng)
    grey = compress(
        level_db, dynamic_range_db=float(rng.uniform(45.0, 70.0)), tissue_grey=float(rng.uniform(0.32, 0.45))
    )
    if canvas.overlay is not None and canvas.opacity is not None:
        grey += canvas.opacity * (canvas.overlay - grey)
    return np.clip(grey, 0.0, 1.0)


def image_level_db(canvas: Canvas, beam: Beam, rng: np.random.Generator) -> FloatArray:
    """Return the envelope in dB that a beam receives from a canvas, (D, L)."""
    num_samples, num_lines = canvas.echo_db.shape
    field = scatterers(num_samples, num_lines, rng)
    field *= np.exp(np.float32(np.log(10.0) / 20.0) * canvas.echo_db)[..., None]
    field[..., 0] += canvas.specular
    return received_db(apply_point_spread(field, beam), canvas.cumulative_loss_db(), beam, rng)
