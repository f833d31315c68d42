"""Cartoons of the anatomies that a linear probe looks at from nearby. For demos and tests only."""

import numpy as np

from arl_lightning.data.phantom.canvas import Canvas
from arl_lightning.data.phantom.geometry import FloatArray
from arl_lightning.data.phantom.tissues import (
    between,
    bone,
    fascia,
    fat,
    fluid,
    lobed,
    muscle_layer,
    parenchyma,
    scattered_stones,
    skin,
    stone,
    vessel,
)


def breast(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint fat lobules, glandular tissue and chest muscle, with a cyst or a shadowing lesion."""
    fat(canvas, rng, 0.0, 0.25)
    gland = canvas.below(between(rng, 0.18, 0.28), rng, 0.04)
    lobules = np.abs(canvas.texture(rng, 0.2, 0.07, between(rng, -10.0, 10.0)))
    canvas.fill(gland, 5.0 - 13.0 * np.minimum(lobules, 1.2) + 3.0 * canvas.texture(rng, 0.04, 0.012))
    canvas.specular += np.float32(2.5) * np.maximum(1.0 - 9.0 * lobules, 0.0) * canvas.coverage(gland)
    chest = canvas.below(between(rng, 0.72, 0.82), rng, 0.015)
    canvas.clear(chest)
    muscle_layer(canvas, rng, chest, between(rng, -5.0, 5.0), -8.0)
    fascia(canvas, chest, 4.0)
    skin(canvas, rng, 0.035)
    cx, cz = between(rng, -0.5, 0.5) * canvas.half_width, between(rng, 0.35, 0.5)
    _breast_lesion(canvas, rng, cx, cz, between(rng, 0.09, 0.17))


def _breast_lesion(canvas: Canvas, rng: np.random.Generator, cx: float, cz: float, size: float) -> None:
    kind = rng.choice(["cyst", "benign", "malignant"])
    if kind == "cyst":
        fluid(canvas, canvas.ellipse(cx, cz, 1.2 * size, 0.8 * size), wall=4.0)
    elif kind == "benign":
        oval = canvas.ellipse(cx, cz, 1.5 * size, 0.75 * size, between(rng, -10.0, 10.0))
        canvas.clear(oval)
        canvas.fill(oval, -13.0, -4.0)
        canvas.interface(oval, 3.0)
    else:
        mass = lobed(canvas, rng, canvas.ellipse(cx, cz, size, 1.1 * size), 0.035, 0.07)
        canvas.clear(mass, 0.03)
        canvas.fill(mass - np.float32(0.03), 3.0, edge=0.04)
        canvas.fill(mass, -19.0, 45.0, edge=0.025)
        scattered_stones(canvas, rng, cx, cz, 0.7 * size, 3)


def doppler(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a vessel with flow, as grey: fast in the middle, slow at the wall, within the outline of a colour box."""
    muscle_layer(canvas, rng, canvas.below(0.0, rng, 0.0), between(rng, -6.0, 6.0), -6.0)
    skin(canvas, rng)
    cz, tilt, radius = between(rng, 0.42, 0.58), between(rng, -0.12, 0.12), between(rng, 0.07, 0.12)
    reach = canvas.half_width + 0.2
    lumen = canvas.tube((-reach, cz - tilt), (reach, cz + tilt), radius, between(rng, -0.05, 0.05))
    vessel(canvas, lumen, wall=6.0, wall_width=0.03)
    steer = between(rng, 0.2, 0.4) * float(rng.choice([-1.0, 1.0]))
    box = _colour_box(canvas, cz, steer, 0.55 * canvas.half_width, 2.2 * radius)
    profile = np.clip(-lumen / np.float32(radius), 0.0, 1.0)
    speed = profile * (2.0 - profile) * (1.0 + 0.12 * canvas.texture(rng, 0.08, 0.02))
    limit = between(rng, 0.75, 1.3)  # speeds beyond it alias: they wrap around to the other end of the scale
    outline = canvas.coverage(np.abs(box) - np.float32(0.003))
    canvas.overlay = np.maximum(0.35 + 0.65 * np.mod(speed / limit, 1.0), outline)
    canvas.opacity = np.maximum(canvas.coverage(np.maximum(lumen + 0.01, box)), outline)


def _colour_box(canvas: Canvas, cz: float, steer: float, half_width: float, half_height: float) -> FloatArray:
    across = np.abs(canvas.x - np.float32(steer) * (canvas.z - np.float32(cz))) - np.float32(half_width)
    return np.maximum(across, np.abs(canvas.z - np.float32(cz)) - np.float32(half_height))


def muscle(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a pennate muscle between two aponeuroses, its striae slanted, with bone or a second muscle below."""
    fat_end = between(rng, 0.1, 0.18)
    fat(canvas, rng, 0.0, fat_end)
    skin(canvas, rng, 0.03)
    pennation = between(rng, 12.0, 28.0) * float(rng.choice([-1.0, 1.0]))
    upper = canvas.below(fat_end, rng, 0.008)
    muscle_layer(canvas, rng, upper, pennation, -11.0)
    lower = canvas.below(between(rng, 0.6, 0.72), rng, 0.012, between(rng, -0.06, 0.06))
    muscle_layer(canvas, rng, lower, -0.5 * pennation, -14.0)
    fascia(canvas, upper, 6.0, 0.012)
    fascia(canvas, lower, 6.0, 0.014)
    if rng.random() < 0.5:
        bone(canvas, canvas.below(between(rng, 0.82, 0.9), rng, 0.02, between(rng, -0.1, 0.1)))


def soft_tissue(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint skin and fat with cobblestones of oedema, an abscess or a foreign body."""
    lobules = canvas.texture(rng, 0.11, 0.06, between(rng, -10.0, 10.0))
    canvas.fill(canvas.below(0.0, rng, 0.0), 2.0 + 3.0 * lobules)
    skin(canvas, rng, 0.05)
    kind = rng.choice(["cobblestones", "abscess", "foreign body"])
    if kind == "cobblestones":
        cracks = canvas.below(0.07, rng, 0.01)
        gaps = np.maximum(1.0 - 3.5 * np.abs(lobules), 0.0) * canvas.coverage(cracks)
        canvas.echo_db -= 26.0 * gaps * (canvas.depth < np.float32(0.7))
    elif kind == "abscess":
        cx, cz = between(rng, -0.3, 0.3) * canvas.half_width, between(rng, 0.3, 0.45)
        pocket = lobed(canvas, rng, canvas.ellipse(cx, cz, between(rng, 0.2, 0.32), between(rng, 0.1, 0.16)), 0.03, 0.1)
        canvas.fill(pocket - np.float32(0.04), 5.0, edge=0.05)
        canvas.fill(pocket, -20.0 + 4.0 * canvas.texture(rng, 0.06, 0.03), -12.0, edge=0.02)
    else:
        _foreign_body(canvas, rng)
    deep = canvas.below(between(rng, 0.72, 0.82), rng, 0.012)
    muscle_layer(canvas, rng, deep, between(rng, -8.0, 8.0), -9.0)
    fascia(canvas, deep, 5.0, 0.012)


def _foreign_body(canvas: Canvas, rng: np.random.Generator) -> None:
    cx, cz, slant = between(rng, -0.3, 0.3) * canvas.half_width, between(rng, 0.3, 0.5), between(rng, -0.08, 0.08)
    splinter = canvas.tube((cx - 0.16, cz - slant), (cx + 0.16, cz + slant), 0.01)
    canvas.fill(splinter - np.float32(0.03), -12.0, edge=0.03)
    canvas.fill(splinter, 18.0, 500.0)
    canvas.interface(splinter, 8.0, 0.01)


def testicle(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint an even oval testicle with its bright mediastinum and tunica, in a rim of fluid, beside the epididymis."""
    parenchyma(canvas, rng, canvas.below(0.0, rng, 0.0), -6.0, 5.0)
    skin(canvas, rng, 0.05)
    half = min(0.42, 0.85 * canvas.half_width)
    cx, cz, turn = between(rng, -0.06, 0.06), between(rng, 0.46, 0.52), between(rng, -10.0, 10.0)
    a, b = between(rng, 0.85, 1.0) * half, between(rng, 0.24, 0.3)
    tunica = canvas.ellipse(cx, cz, a, b, turn)
    rim = between(rng, 0.02, 0.09)
    fluid(canvas, canvas.ellipse(cx + 0.02, cz - 0.2 * rim, a + rim, b + rim, turn), wall=2.0)
    epididymis = canvas.ellipse(cx + float(rng.choice([-1.0, 1.0])) * 0.95 * a, cz - 0.55 * b, 0.1, 0.07, 35.0)
    canvas.fill(epididymis, -3.0)
    canvas.fill(tunica, 2.0 + 0.8 * canvas.texture(rng, 0.05, 0.04), 2.0)
    canvas.interface(tunica, 4.0)
    hilum = canvas.tube((cx - 0.6 * a, cz + 0.5 * b), (cx + 0.5 * a, cz + 0.35 * b), 0.008, 0.03)
    canvas.fill(hilum, 11.0, edge=0.02)
    if rng.random() < 0.3:
        canvas.fill(canvas.ellipse(cx - 0.2 * a, cz, 0.08, 0.06), -14.0, edge=0.02)


def thyroid(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint both lobes and the isthmus across the trachea, the carotids beside them, at times with nodules."""
    muscle_layer(canvas, rng, canvas.below(0.0, rng, 0.0), between(rng, -4.0, 4.0), -11.0)
    skin(canvas, rng, 0.03)
    half = min(canvas.half_width, 0.8)
    cz = between(rng, 0.4, 0.48)
    lobes = [canvas.ellipse(side * 0.42 * half, cz, 0.28 * half, between(rng, 0.16, 0.21)) for side in (-1.0, 1.0)]
    isthmus = canvas.tube((-0.4 * half, cz - 0.1), (0.4 * half, cz - 0.1), 0.04, 0.06)
    gland = np.minimum(np.minimum(lobes[0], lobes[1]), isthmus)
    canvas.clear(gland)
    canvas.fill(gland, 4.0 + 1.0 * canvas.texture(rng, 0.03, 0.02))
    canvas.interface(gland, 3.0)
    for side in (-1.0, 1.0):
        size = between(rng, 0.07, 0.1)
        vessel(canvas, canvas.ellipse(side * 0.86 * half, cz + 0.08, size, size), wall=4.0, wall_width=0.015)
    _trachea(canvas, cz + 0.12, 0.26 * half)
    if rng.random() < 0.6:
        _nodule(canvas, rng, float(rng.choice([-1.0, 1.0])) * 0.42 * half, cz, between(rng, 0.05, 0.1))


def _trachea(canvas: Canvas, cz: float, size: float) -> None:
    """Paint a dark ring of cartilage over a bright bow of air, and reverberation in its shadow."""
    ring = canvas.ellipse(0.0, cz + 0.1, size, 0.22)
    shadow = np.maximum(np.abs(canvas.x) - np.float32(0.9 * size), np.float32(cz + 0.1) - canvas.z)
    canvas.clear(np.minimum(ring, shadow))
    canvas.fill(ring, -14.0)
    air = np.minimum(ring + np.float32(0.045), shadow)
    echoes = np.cos(np.float32(2.0 * np.pi / 0.09) * ring)
    canvas.fill(air, np.float32(6.0) * echoes - np.float32(10.0), 30.0, edge=0.02)
    canvas.interface(np.where(canvas.z < cz + 0.1, ring + np.float32(0.045), np.float32(1.0)), 9.0, 0.012)


def _nodule(canvas: Canvas, rng: np.random.Generator, cx: float, cz: float, size: float) -> None:
    nodule = canvas.ellipse(cx, cz, 1.1 * size, size)
    kind = rng.random()
    if kind < 0.4:
        fluid(canvas, nodule, wall=2.0)
    else:
        canvas.fill(nodule - np.float32(0.008), -14.0)
        canvas.fill(nodule, -7.0 if kind < 0.7 else 7.0)
        if rng.random() < 0.4:
            stone(canvas, cx, cz, 0.2 * size)
