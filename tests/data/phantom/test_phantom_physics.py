import numpy as np
import pytest

from arl_lightning.data.phantom import Beam, homogeneous_envelope
from arl_lightning.data.phantom.canvas import Canvas
from arl_lightning.data.phantom.generator import image_level_db
from arl_lightning.data.phantom.geometry import LinearGeometry
from arl_lightning.data.phantom.physics import apply_point_spread, compress, scatterers
from arl_lightning.data.phantom.tissues import FLUID_LOSS, fluid, stone

NUM_SAMPLES, NUM_LINES = 400, 500
ROWS_AT = {"near": slice(0, 24), "focus": slice(188, 212), "deep": slice(376, 400)}


def _linear_canvas() -> Canvas:
    return Canvas(LinearGeometry(pixels_per_depth=400.0, half_width=0.5), NUM_SAMPLES, NUM_LINES)


def _without_trend(envelope: np.ndarray) -> np.ndarray:
    depth = np.arange(len(envelope))
    trend = np.exp(np.polyval(np.polyfit(depth, np.log(envelope.mean(axis=1)), 1), depth))
    return envelope / trend[:, None]


@pytest.mark.parametrize("seed", range(3))
def test_speckle_is_rayleigh(seed: int) -> None:
    envelope = _without_trend(homogeneous_envelope(NUM_SAMPLES, NUM_LINES, np.random.default_rng(seed)))
    assert envelope.mean() / envelope.std() == pytest.approx(1.91, abs=0.05)
    # Of a Rayleigh amplitude with mean 1, 1 - exp(-pi / 4) = 54.4 % lies below the mean.
    assert (envelope < envelope.mean()).mean() == pytest.approx(0.544, abs=0.01)


@pytest.mark.parametrize("place", ROWS_AT)
def test_lateral_correlation_follows_the_beam_width_at_each_depth(place: str) -> None:
    beam = Beam(focus=0.5, focal_range=0.25, lateral_sigma=1.2)
    rows = ROWS_AT[place]
    envelope = np.concatenate(
        [homogeneous_envelope(NUM_SAMPLES, NUM_LINES, np.random.default_rng(seed), beam)[rows] for seed in range(4)]
    )
    intensity = envelope**2
    intensity = intensity / intensity.mean(axis=1, keepdims=True) - 1.0
    lag = 2
    measured = (intensity[:, lag:] * intensity[:, :-lag]).mean() / (intensity**2).mean()
    # A Gaussian kernel of width sigma leaves a field correlation exp(-lag^2 / 4 sigma^2); intensity has its square.
    sigma = beam.lateral_sigmas(NUM_SAMPLES)[rows].mean()
    assert measured == pytest.approx(np.exp(-(lag**2) / (2.0 * sigma**2)), abs=0.06)


def test_beam_is_narrowest_at_the_focus_and_sqrt2_wider_a_focal_range_away() -> None:
    sigmas = Beam(focus=0.4, focal_range=0.2, lateral_sigma=1.0).lateral_sigmas(101)
    assert sigmas.argmin() == 40
    assert sigmas[[20, 40, 60]] == pytest.approx([2**0.5, 1.0, 2**0.5], rel=1e-3)


def test_point_spread_keeps_the_mean_power_at_every_depth() -> None:
    field = apply_point_spread(scatterers(NUM_SAMPLES, NUM_LINES, np.random.default_rng(0)), Beam())
    power = (field**2).sum(axis=2)
    for rows in ROWS_AT.values():
        assert power[rows].mean() == pytest.approx(1.0, abs=0.08)


def test_point_spread_of_one_scatterer_is_wider_away_from_the_focus() -> None:
    field = np.zeros((101, 61, 2), dtype=np.float32)
    field[[10, 50, 90], 30, 0] = 1.0
    spread = apply_point_spread(field, Beam(focus=0.5, focal_range=0.2))[..., 0]
    near, focus, deep = (int((row > 0.5 * row.max()).sum()) for row in spread[[10, 50, 90]])
    assert near > focus
    assert deep > focus


def test_attenuation_without_gain_darkens_the_deep_part_by_its_decibels() -> None:
    beam = Beam(attenuation_db=30.0, gain_db=0.0, noise_db=-200.0)
    level = image_level_db(_linear_canvas(), beam, np.random.default_rng(0)).mean(axis=1)
    assert level[:40].mean() - level[-40:].mean() == pytest.approx(30.0 * 0.9, abs=1.0)


def test_gain_that_equals_the_attenuation_evens_the_brightness_out() -> None:
    beam = Beam(attenuation_db=30.0, gain_db=30.0, noise_db=-200.0)
    level = image_level_db(_linear_canvas(), beam, np.random.default_rng(0)).mean(axis=1)
    assert level[:40].mean() == pytest.approx(level[-40:].mean(), abs=1.0)


def test_electronic_noise_limits_the_penetration() -> None:
    beam = Beam(attenuation_db=80.0, gain_db=0.0, noise_db=-40.0)
    level = image_level_db(_linear_canvas(), beam, np.random.default_rng(0))
    deep_power = 10.0 ** (level[-40:] / 10.0)
    assert 10.0 * np.log10(deep_power.mean()) == pytest.approx(-40.0, abs=0.5)


def test_stone_casts_a_shadow_darker_than_its_surroundings() -> None:
    canvas = _linear_canvas()
    stone(canvas, 0.0, 0.4, 0.05)
    level = image_level_db(canvas, Beam(), np.random.default_rng(0))
    behind, beside = level[200:300, 240:260], level[200:300, 50:200]
    assert behind.mean() < beside.mean() - 15.0


def test_fluid_is_dark_and_brightens_what_lies_behind_it() -> None:
    canvas = _linear_canvas()
    fluid(canvas, canvas.ellipse(0.0, 0.4, 0.2, 0.2), wall=0.0)
    level = image_level_db(canvas, Beam(), np.random.default_rng(0))
    assert level[120:200, 220:280].mean() < level[120:200, :100].mean() - 20.0
    gain = level[280:380, 240:260].mean() - level[280:380, :100].mean()
    assert gain == pytest.approx(-FLUID_LOSS * 0.4, abs=1.5)


def test_compression_is_linear_in_decibels_between_black_and_white() -> None:
    grey = compress(np.array([-60.0, -18.0, 0.0, 6.0, 90.0], dtype=np.float32), 60.0, 0.4)
    assert grey == pytest.approx([0.0, 0.1, 0.4, 0.5, 1.0], abs=1e-6)
