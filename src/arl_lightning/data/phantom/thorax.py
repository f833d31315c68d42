"""Cartoons of heart, lung and oesophagus, and of what lies outside the vocabulary. For demos and tests only."""

import numpy as np

from arl_lightning.data.phantom.canvas import Canvas
from arl_lightning.data.phantom.geometry import FloatArray
from arl_lightning.data.phantom.tissues import (
    FLUID_DB,
    between,
    body_wall,
    bone,
    fascia,
    fluid,
    lobed,
    muscle_layer,
    parenchyma,
    skin,
    vessel,
)


def cardiac(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the four chambers from the apex: muscle, septum, valves and the bright pericardium."""
    parenchyma(canvas, rng, canvas.below(0.0, rng, 0.0), -8.0, 4.0)
    canvas.fill(canvas.below(0.0, rng, 0.0) - 0.05, 4.0)
    tilt, base = between(rng, -6.0, 6.0), between(rng, 0.6, 0.68)
    heart = lobed(canvas, rng, canvas.ellipse(-0.02, 0.56, 0.42, 0.46, tilt), 0.015, 0.15)
    canvas.fill(heart, 1.0 + 3.5 * canvas.texture(rng, 0.05, 0.03))
    canvas.interface(heart, 3.0)
    left = canvas.ellipse(0.1, base - 0.2, between(rng, 0.1, 0.14), 0.24, tilt - 6.0)
    right = canvas.ellipse(-0.19, base - 0.13, between(rng, 0.06, 0.09), 0.17, tilt + 16.0)
    left_atrium = canvas.ellipse(0.12, base + 0.17, 0.13, between(rng, 0.1, 0.14))
    right_atrium = canvas.ellipse(-0.2, base + 0.16, 0.12, between(rng, 0.09, 0.13))
    for chamber in (left, right, left_atrium, right_atrium):
        irregular = lobed(canvas, rng, chamber, 0.012, 0.06)
        canvas.fill(irregular, -24.0 + 3.0 * canvas.texture(rng, 0.08, 0.08), -4.0, edge=0.03)
    _valve(canvas, 0.11, base, 0.1, between(rng, 0.0, 0.09))
    _valve(canvas, -0.2, base + 0.01, 0.085, between(rng, 0.0, 0.07))
    if rng.random() < 0.25:  # a pericardial effusion
        rim = np.abs(heart - np.float32(0.03)) - np.float32(0.022)
        canvas.fill(np.maximum(rim, np.float32(0.25) - canvas.z), FLUID_DB, -4.0)


def _valve(canvas: Canvas, cx: float, cz: float, half: float, opening: float) -> None:
    """Paint two leaflets that hang from the ring towards the middle, `opening` above it."""
    for side in (-1.0, 1.0):
        leaflet = canvas.tube((cx + side * half, cz), (cx + side * 0.012, cz - opening), 0.007, side * 0.012)
        canvas.fill(leaflet, 9.0, edge=0.012)
        canvas.interface(leaflet + 0.007, 2.0)


def lung(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint chest wall, ribs with shadows and the pleural line, and below it A-lines or B-lines."""
    pleura = between(rng, 0.2, 0.3)
    muscle_layer(canvas, rng, canvas.below(0.0, rng, 0.0), between(rng, -5.0, 5.0), -4.0)
    skin(canvas, rng)
    line = canvas.below(pleura, rng, 0.006)
    num_b_lines = int(rng.choice([0, 2, 4]))
    canvas.clear(line)
    canvas.fill(line, -17.0 + 3.0 * canvas.texture(rng, 0.05, 0.25), 6.0)
    for order in range(2, int(0.98 / pleura) + 1):
        _a_line(canvas, order * pleura, (5.0 if num_b_lines == 0 else 1.5) / (order - 1))
    for _ in range(num_b_lines):
        _b_line(canvas, rng, line, between(rng, -0.6, 0.6))
    fascia(canvas, line, 9.0, 0.01)
    middle, reach = between(rng, -0.25, 0.25), canvas.half_width_at(pleura)
    for side in (-1.0, 1.0):
        cx = (middle + side * between(rng, 0.55, 0.7)) * reach
        bone(canvas, canvas.ellipse(cx, 0.84 * pleura, 0.4 * pleura, 0.22 * pleura), amplitude=8.0)


def _a_line(canvas: Canvas, depth: float, amplitude: float) -> None:
    echo = np.abs(canvas.depth - np.float32(depth))
    canvas.fill(echo - np.float32(0.008), -4.0, 6.0, edge=0.02)
    canvas.interface(canvas.depth - np.float32(depth), amplitude, 0.01)


def _b_line(canvas: Canvas, rng: np.random.Generator, pleura: FloatArray, beam: float) -> None:
    """Paint a bright streak along a beam (-1 to 1) from the pleura to the bottom, through the A-lines."""
    edge = np.maximum(canvas.x[:, -1:], np.float32(0.05))
    streak = np.abs(canvas.x - np.float32(beam) * edge) - edge * np.float32(between(rng, 0.02, 0.05))
    ladder = np.cos(np.float32(2.0 * np.pi / 0.03) * canvas.depth)
    canvas.fill(np.maximum(streak, pleura), 3.0 + 2.0 * ladder, 4.0, edge=0.03)


def esophageal(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the view from within the gullet: its five-layered wall, a tumour or a node, and the aorta behind."""
    parenchyma(canvas, rng, canvas.below(0.0, rng, 0.0), 1.0, 5.0)
    lumen = between(rng, 0.05, 0.09)
    vessel(canvas, canvas.ellipse(between(rng, -0.25, 0.25), 0.66, 0.17, between(rng, 0.13, 0.17)), wall=5.0)
    node = canvas.ellipse(between(rng, 0.3, 0.45) * float(rng.choice([-1.0, 1.0])), between(rng, 0.38, 0.5), 0.07, 0.05)
    canvas.fill(node, -12.0)
    surface = canvas.below(lumen, rng, 0.012)
    wall = between(rng, 0.14, 0.2)
    if rng.random() < 0.5:
        swelling = lobed(canvas, rng, canvas.ellipse(between(rng, -0.2, 0.2), lumen + wall, 0.2, 0.1), 0.02, 0.08)
        canvas.fill(swelling, -13.0, 8.0)
    for start, end, echo_db in ((0.0, 0.14, 10.0), (0.14, 0.36, -16.0), (0.36, 0.6, 9.0), (0.6, 0.9, -17.0)):
        canvas.fill(np.maximum(surface + start * wall, -surface - end * wall), echo_db)
    fascia(canvas, surface + np.float32(0.95 * wall), 3.0, 0.01)
    canvas.fill(-surface, -30.0)
    for echo in (0.25, 0.5, 0.75):  # rings of the balloon around the probe
        canvas.interface(canvas.depth - np.float32(echo * lumen), 4.0 * (1.0 - echo), 0.006)


def other(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a fetal head in amniotic fluid: bright skull, midline and brain, the placenta above."""
    wall = body_wall(canvas, rng)
    parenchyma(canvas, rng, canvas.below(wall, rng), 0.0, 3.0)
    cx, cz, turn = between(rng, -0.08, 0.08), between(rng, 0.52, 0.6), between(rng, -35.0, 35.0)
    a, b = between(rng, 0.27, 0.33), between(rng, 0.2, 0.25)
    sac = np.maximum(canvas.ellipse(cx, cz, a + 0.25, b + 0.13), np.float32(wall + 0.06) - canvas.depth)
    fluid(canvas, lobed(canvas, rng, sac, 0.02, 0.15), wall=2.0)
    skull = canvas.ellipse(cx, cz, a, b, turn)
    canvas.fill(skull, -14.0 + 4.0 * canvas.texture(rng, 0.08, 0.04), 6.0)
    canvas.fill(np.abs(skull) - np.float32(0.014), 14.0, 20.0)
    canvas.interface(skull, 6.0, 0.012)
    c, s = float(np.cos(np.deg2rad(turn))), float(np.sin(np.deg2rad(turn)))
    falx = canvas.tube((cx - 0.9 * a * c, cz - 0.9 * a * s), (cx + 0.9 * a * c, cz + 0.9 * a * s), 0.004)
    canvas.fill(falx, 3.0, edge=0.015)
    for side in (-1.0, 1.0):
        ventricle = canvas.ellipse(cx - side * 0.4 * b * s, cz + side * 0.4 * b * c, 0.4 * a, 0.14 * b, turn)
        canvas.fill(ventricle, -30.0)
