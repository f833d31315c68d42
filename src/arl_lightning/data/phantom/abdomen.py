"""Cartoons of the anatomies that a convex probe looks at through the belly. For demos and tests only."""

import numpy as np

from arl_lightning.data.phantom.canvas import Canvas
from arl_lightning.data.phantom.tissues import (
    FLUID_DB,
    between,
    body_wall,
    bone,
    fascia,
    fluid,
    gas,
    lobed,
    parenchyma,
    scattered_stones,
    stone,
    vessel,
)


def abdominal(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint bowel loops with gas and dirty shadows, at times with free fluid between them."""
    wall = body_wall(canvas, rng)
    parenchyma(canvas, rng, canvas.below(wall, rng), 0.0, 6.0)
    if rng.random() < 0.5:
        pool = canvas.ellipse(between(rng, -0.3, 0.3), 0.75, 0.4, 0.2, between(rng, -25.0, 25.0))
        fluid(canvas, lobed(canvas, rng, pool, 0.05, 0.15), wall=1.0)
    for side in rng.permutation([-0.65, 0.0, 0.65])[: int(rng.integers(2, 4))]:
        cx = float(side) * canvas.half_width + between(rng, -0.05, 0.05)
        bowel_loop(canvas, rng, cx, wall + between(rng, 0.12, 0.4), between(rng, 0.08, 0.14))


def bowel_loop(canvas: Canvas, rng: np.random.Generator, cx: float, cz: float, size: float) -> None:
    """Paint one loop of bowel: a dark muscular wall around bright contents, at times with gas."""
    loop = canvas.ellipse(cx, cz, 1.3 * size, size, between(rng, -30.0, 30.0))
    canvas.fill(loop, -16.0)
    canvas.interface(loop, 2.0)
    canvas.fill(loop + np.float32(0.025), 3.0 + 4.0 * canvas.texture(rng, 0.03, 0.02))
    if rng.random() < 0.7:
        gas(canvas, rng, cx, cz, 0.8 * size)


def aorta(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the aorta, across with the vena cava above a vertebra, or along."""
    wall = body_wall(canvas, rng)
    parenchyma(canvas, rng, canvas.below(wall, rng), -1.0, 4.0)
    if rng.random() < 0.6:
        _aorta_across(canvas, rng)
    else:
        _aorta_along(canvas, rng)


def _aorta_across(canvas: Canvas, rng: np.random.Generator) -> None:
    cx, cz = between(rng, 0.0, 0.12), between(rng, 0.45, 0.55)
    size = between(rng, 0.07, 0.13)
    surface = canvas.ellipse(0.0, cz + size + 0.25, 0.24, 0.2)
    bone(canvas, surface)
    vessel(canvas, canvas.ellipse(cx - size - 0.14, cz + 0.03, 0.09, between(rng, 0.035, 0.07)), wall=1.5)
    lumen = canvas.ellipse(cx, cz, size, size)
    vessel(canvas, lumen, wall=6.0, wall_width=0.022)
    if size > 0.1:  # an aneurysm is lined with thrombus
        canvas.fill(np.maximum(lumen, -canvas.ellipse(cx + 0.03, cz - 0.02, 0.6 * size, 0.6 * size)), -9.0)


def _aorta_along(canvas: Canvas, rng: np.random.Generator) -> None:
    cz, radius = between(rng, 0.42, 0.52), between(rng, 0.05, 0.075)
    slope = between(rng, -0.05, 0.12)
    surface = canvas.tube((-1.2, cz + 0.35 - slope), (1.2, cz + 0.35 + slope), 0.12)
    bone(canvas, lobed(canvas, rng, surface, 0.02, 0.12), amplitude=6.0)
    lumen = canvas.tube((-1.2, cz - slope), (1.2, cz + slope), radius, between(rng, -0.03, 0.03))
    vessel(canvas, lumen, wall=7.0, wall_width=0.02)
    branch = canvas.tube((0.05, cz - radius), (0.45, cz - 1.2 * radius - 0.12), 0.022)
    vessel(canvas, branch, wall=2.0)


def bladder(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a large anechoic bladder with a thick wall, bright tissue behind it and an organ below."""
    wall = body_wall(canvas, rng)
    parenchyma(canvas, rng, canvas.below(wall, rng), 0.0, 4.0)
    cz, height, width = between(rng, 0.4, 0.48), between(rng, 0.17, 0.25), between(rng, 0.28, 0.42)
    organ = canvas.ellipse(between(rng, -0.08, 0.08), cz + height + 0.12, between(rng, 0.15, 0.24), 0.12)
    parenchyma(canvas, rng, organ, -7.0, 2.0)
    canvas.interface(organ, 1.5)
    # Two overlapping ellipses flatten the top, as of a bladder filled part of the way.
    lower = canvas.ellipse(0.0, cz + 0.12, 1.3 * width, height + 0.08)
    body = np.maximum(canvas.ellipse(0.0, cz, width, height), lower)
    canvas.fill(body - np.float32(0.03), -5.0)
    fluid(canvas, lobed(canvas, rng, body, 0.008, 0.2), wall=5.0)
    below_top = np.maximum(canvas.depth - np.float32(cz - height), 0.0)
    reverberation_db = np.float32(24.0) * np.exp(np.float32(-12.0) * below_top)
    canvas.echo_db += canvas.coverage(body) * reverberation_db


def gallbladder(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a pear-shaped anechoic gallbladder in the liver, at times with stones or sludge."""
    _liver_background(canvas, rng)
    cx, cz = between(rng, -0.1, 0.1), between(rng, 0.42, 0.55)
    turn, length, girth = between(rng, -50.0, 50.0), between(rng, 0.22, 0.3), between(rng, 0.08, 0.12)
    c, s = float(np.cos(np.deg2rad(turn))), float(np.sin(np.deg2rad(turn)))
    fundus = canvas.ellipse(cx + 0.3 * length * c, cz + 0.3 * length * s, 0.7 * length, girth, turn)
    neck = canvas.tube((cx, cz), (cx - 1.1 * length * c, cz - 1.1 * length * s), 0.35 * girth, 0.02)
    body = np.minimum(fundus, neck)
    canvas.fill(body - np.float32(0.018), 6.0, edge=0.015)
    fluid(canvas, body, wall=5.0)
    kind = rng.random()
    if kind < 0.4:
        for offset in np.linspace(0.1, 0.6, int(rng.integers(1, 4))):
            stone(canvas, cx + float(offset) * length * c, cz + float(offset) * length * s + 0.6 * girth, 0.028)
    elif kind < 0.6:
        sludge = np.maximum(body, np.float32(cz + 0.3 * girth) - canvas.z)
        canvas.fill(sludge, -8.0, edge=0.02)


def kidney(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a kidney along its length: dark cortex, darker pyramids and a bright sinus, at times dilated."""
    wall = body_wall(canvas, rng)
    parenchyma(canvas, rng, canvas.below(wall, rng), 1.0, 2.0)
    cx, cz, turn = between(rng, -0.06, 0.06), between(rng, 0.46, 0.54), between(rng, -25.0, 25.0)
    a, b = between(rng, 0.33, 0.4), between(rng, 0.16, 0.2)
    capsule = lobed(canvas, rng, canvas.ellipse(cx, cz, a, b, turn), 0.006, 0.1)
    canvas.fill(capsule - np.float32(0.03), 6.0, edge=0.02)
    parenchyma(canvas, rng, capsule, -8.0, 1.5)
    canvas.interface(capsule, 3.0)
    _pyramids(canvas, cx, cz, 0.72 * a, 0.72 * b, turn)
    sinus = lobed(canvas, rng, canvas.ellipse(cx, cz, 0.58 * a, 0.38 * b, turn), 0.03, 0.07)
    canvas.fill(sinus, 8.0 + 4.0 * canvas.texture(rng, 0.04, 0.02), edge=0.02)
    if rng.random() < 0.35:
        pelvis = lobed(canvas, rng, canvas.ellipse(cx, cz, 0.4 * a, 0.22 * b, turn), 0.025, 0.07)
        fluid(canvas, pelvis, wall=1.0)


def _pyramids(canvas: Canvas, cx: float, cz: float, a: float, b: float, turn: float) -> None:
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    for angle in np.deg2rad([25.0, 65.0, 115.0, 155.0, 205.0, 245.0, 295.0, 335.0]):
        along, across = a * np.cos(angle), b * np.sin(angle)
        x, z = float(cx + along * c - across * s), float(cz + along * s + across * c)
        canvas.fill(canvas.ellipse(x, z, 0.035, 0.03, turn), -16.0, edge=0.02)


def liver(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint even liver tissue with hepatic and portal veins and the diaphragm, at times with a lesion."""
    _liver_background(canvas, rng)
    hub = (between(rng, -0.1, 0.15), between(rng, 0.55, 0.65))
    turn = between(rng, -25.0, 25.0)
    for degrees in (-150.0, -95.0, -35.0)[: int(rng.integers(2, 4))]:
        turned = np.deg2rad(degrees + turn + between(rng, -12.0, 12.0))
        end = (hub[0] + 0.45 * float(np.cos(turned)), hub[1] + 0.4 * float(np.sin(turned)))
        vessel(canvas, canvas.tube(hub, end, between(rng, 0.01, 0.024), between(rng, -0.05, 0.05)), wall=0.0)
    for _ in range(int(rng.integers(2, 5))):
        x, z = between(rng, -0.8, 0.8) * canvas.half_width, between(rng, 0.25, 0.7)
        vessel(canvas, canvas.ellipse(x, z, between(rng, 0.012, 0.03), 0.013, between(rng, -40.0, 40.0)), wall=3.0)
    if rng.random() < 0.4:
        x, z, size = between(rng, -0.3, 0.3), between(rng, 0.3, 0.6), between(rng, 0.04, 0.09)
        canvas.fill(canvas.ellipse(x, z, size, 0.85 * size), float(rng.choice([9.0, -9.0])), edge=0.02)


def _liver_background(canvas: Canvas, rng: np.random.Generator) -> None:
    wall = body_wall(canvas, rng)
    parenchyma(canvas, rng, canvas.below(wall, rng), 0.0, 1.2)
    dome = canvas.ellipse(between(rng, -0.15, 0.15), 0.3, 0.85, between(rng, 0.55, 0.62), between(rng, -12.0, 12.0))
    behind = np.maximum(-dome, np.float32(0.5) - canvas.z)
    canvas.fill(behind, -10.0 + 3.0 * canvas.texture(rng, 0.1, 0.1))
    fascia(canvas, np.where(canvas.z > 0.5, dome, np.float32(1.0)), 6.0, 0.01)


def oncology(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a large mixed tumour with a necrotic core and calcifications, and target-like metastases."""
    wall = body_wall(canvas, rng)
    parenchyma(canvas, rng, canvas.below(wall, rng), -1.0, 3.0)
    cx, cz, size = between(rng, -0.15, 0.15), between(rng, 0.42, 0.55), between(rng, 0.2, 0.26)
    mass = lobed(canvas, rng, canvas.ellipse(cx, cz, 1.15 * size, size, between(rng, -40.0, 40.0)), 0.035, 0.12)
    canvas.fill(mass - np.float32(0.025), -18.0, edge=0.02)
    canvas.fill(mass, 3.0 + 5.0 * canvas.texture(rng, 0.06, 0.05), 10.0, edge=0.02)
    core = lobed(canvas, rng, canvas.ellipse(cx + 0.03, cz, 0.4 * size, 0.3 * size), 0.03, 0.08)
    canvas.fill(core, FLUID_DB + 12.0, edge=0.02)
    scattered_stones(canvas, rng, cx, cz, size, int(rng.integers(3, 7)))
    for side in (-1.0, 1.0):
        _metastasis(canvas, cx + side * between(rng, 0.34, 0.42), between(rng, 0.3, 0.75), between(rng, 0.045, 0.07))


def _metastasis(canvas: Canvas, cx: float, cz: float, size: float) -> None:
    target = canvas.ellipse(cx, cz, size, 0.9 * size)
    canvas.fill(target, -16.0, edge=0.015)
    canvas.fill(target + np.float32(0.4 * size), 6.0, edge=0.015)
