"""Pieces that several anatomies share: layers under the skin, parenchyma, vessels, stones, bone and gas.

For demos and tests only. Levels are in dB relative to average soft tissue, losses in dB per unit of depth.
"""

import numpy as np

from arl_lightning.data.phantom.canvas import Canvas
from arl_lightning.data.phantom.geometry import FloatArray

FLUID_DB = -38.0
FLUID_LOSS = -14.0


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw uniformly; a plain float, so that float32 maps stay float32."""
    return float(rng.uniform(low, high))


def skin(canvas: Canvas, rng: np.random.Generator, thickness: float = 0.02) -> None:
    """Paint the bright skin and the probe's ring-down above it."""
    inner = canvas.below(thickness, rng, waviness=0.0)
    canvas.fill(-inner, 8.0)
    canvas.interface(inner, 4.0)
    canvas.interface(canvas.below(0.35 * thickness, rng, waviness=0.0), 3.0)


def fat(canvas: Canvas, rng: np.random.Generator, top: float, bottom: float) -> None:
    """Paint a dark fat layer, crossed by bright septa that run with the skin."""
    layer = np.maximum(top - canvas.depth, canvas.depth - bottom)
    grain = max(bottom - top, 0.03)
    septa = np.abs(canvas.texture(rng, 1.6 * grain, 0.35 * grain, between(rng, -8.0, 8.0)))
    canvas.fill(layer, np.float32(16.0) * np.maximum(1.0 - np.float32(5.0) * septa, 0.0) - np.float32(9.0))


def muscle_layer(canvas: Canvas, rng: np.random.Generator, top: FloatArray, degrees: float, echo_db: float) -> None:
    """Paint striated muscle below a layer: dark fascicles between bright slanted septa of connective tissue."""
    bundles = canvas.texture(rng, 0.4, 0.05, degrees)
    fibre = canvas.texture(rng, 0.13, 0.009, degrees) + np.float32(0.4) * bundles
    canvas.fill(top, np.float32(echo_db) + np.float32(4.0) * fibre)
    canvas.specular += np.maximum(fibre - np.float32(1.2), 0.0) * canvas.coverage(top)


def fascia(canvas: Canvas, surface: FloatArray, amplitude: float = 5.0, thickness: float = 0.008) -> None:
    """Paint a bright sheet of connective tissue along a surface."""
    canvas.fill(np.abs(surface) - np.float32(thickness), 8.0)
    canvas.interface(surface, amplitude, thickness)


def body_wall(canvas: Canvas, rng: np.random.Generator, thickness: float | None = None) -> float:
    """Paint skin, fat and muscle of the trunk below the probe; return where the wall ends."""
    bottom = between(rng, 0.09, 0.17) if thickness is None else thickness
    middle = between(rng, 0.45, 0.65) * bottom
    fat(canvas, rng, 0.0, middle)
    muscle = np.maximum(middle - canvas.depth, canvas.depth - bottom)
    canvas.fill(muscle, -3.0 + 5.0 * canvas.texture(rng, 0.2, 0.012))
    skin(canvas, rng)
    fascia(canvas, canvas.below(middle, rng, 0.004), 2.5, 0.005)
    fascia(canvas, canvas.below(bottom, rng, 0.006), 4.0, 0.006)
    return bottom


def parenchyma(canvas: Canvas, rng: np.random.Generator, inside: FloatArray, echo_db: float, contrast: float) -> None:
    """Paint an organ's tissue: even, with patches of `contrast` dB."""
    canvas.fill(inside, echo_db + np.float32(contrast) * canvas.texture(rng, 0.05, 0.03))


def fluid(canvas: Canvas, inside: FloatArray, wall: float = 3.0, edge: float = 0.01) -> None:
    """Paint an anechoic space with a bright wall and enhancement behind it."""
    canvas.clear(inside)
    canvas.fill(inside, FLUID_DB, FLUID_LOSS, edge)
    if wall > 0.0:
        canvas.interface(inside, wall)


def vessel(canvas: Canvas, inside: FloatArray, wall: float = 2.0, wall_width: float = 0.012) -> None:
    """Paint a blood vessel: nearly anechoic, its wall brighter the larger `wall`."""
    if wall > 0.0:
        canvas.fill(inside - np.float32(wall_width), 5.0, edge=0.012)
    canvas.clear(inside)
    canvas.fill(inside, -30.0, -5.0)
    canvas.interface(inside, wall)


def stone(canvas: Canvas, cx: float, cz: float, size: float) -> None:
    """Paint a calcification: a bright cap with a clean shadow behind it."""
    body = canvas.ellipse(cx, cz, size, 0.7 * size)
    canvas.fill(body, 16.0, 28.0 / size)
    canvas.interface(body, 8.0, 0.3 * size)


def bone(canvas: Canvas, surface: FloatArray, amplitude: float = 9.0) -> None:
    """Paint a bone's surface: a bright line, and behind it a clean shadow."""
    canvas.clear(surface - np.float32(0.01))
    canvas.fill(surface - np.float32(0.008), 12.0)
    canvas.fill(surface + np.float32(0.008), -12.0, 900.0)
    canvas.interface(surface, amplitude, 0.01)


def gas(canvas: Canvas, rng: np.random.Generator, cx: float, cz: float, width: float) -> None:
    """Paint bowel gas: a bright bow and a dirty shadow of streaks and faint reverberation."""
    bow = canvas.ellipse(cx, cz, width, 0.35 * width)
    canvas.fill(np.maximum(np.abs(bow) - np.float32(0.01), canvas.z - np.float32(cz)), 16.0)
    canvas.fill(bow, 2.0, 70.0)
    canvas.interface(np.where(canvas.z < cz, bow, np.float32(1.0)), 5.0, 0.012)
    shadow = np.maximum(np.abs(canvas.x - np.float32(cx)) - np.float32(0.9 * width), np.float32(cz) - canvas.z)
    streaks = canvas.texture(rng, 0.012, 0.4)
    canvas.fill(shadow, 1.0 + 5.0 * streaks, 18.0, edge=0.04)


def lobed(canvas: Canvas, rng: np.random.Generator, shape: FloatArray, amplitude: float, grain: float) -> FloatArray:
    """Return a shape with an irregular outline: bumps of the given height and size."""
    return shape + np.float32(amplitude) * canvas.texture(rng, grain, grain)


def scattered_stones(
    canvas: Canvas, rng: np.random.Generator, cx: float, cz: float, spread: float, num_stones: int
) -> None:
    """Paint bright specks without shadow (microcalcifications) around a point."""
    for _ in range(num_stones):
        dx, dz = rng.normal(0.0, 0.5 * spread, size=2)
        canvas.fill(canvas.ellipse(cx + float(dx), cz + float(dz), 0.008, 0.006), 20.0)
