import numpy as np
import pytest

from arl_lightning.data.phantom.geometry import FanGeometry, Geometry, LinearGeometry, fit_geometry, scan_convert

HEIGHT, WIDTH = 240, 320


def _pixel(geometry: Geometry, x: float, z: float) -> tuple[int, int]:
    """Return the row and column of a scene point, from the geometry's definition alone."""
    scale = geometry.pixels_per_depth
    top = 0.0
    if isinstance(geometry, FanGeometry):
        top = geometry.top + scale * geometry.radius * (1.0 - np.cos(geometry.half_angle))
    return round(z * scale + top), round(x * scale + (WIDTH - 1) / 2)


@pytest.mark.parametrize("probe", ["linear", "convex", "sector"])
def test_pixels_show_the_beam_sample_at_their_place(probe: str) -> None:
    geometry = fit_geometry(probe, HEIGHT, WIDTH, np.random.default_rng(0))
    x, z = geometry.beam_coordinates(101, 81)
    lines, depths = geometry.pixel_maps(HEIGHT, WIDTH)
    for sample, line in [(10, 40), (50, 20), (50, 60), (95, 40)]:
        row, column = _pixel(geometry, float(x[sample, line]), float(z[sample, line]))
        assert depths[row, column] == pytest.approx(sample / 100, abs=0.01)
        assert lines[row, column] == pytest.approx(line / 80, abs=0.03)


@pytest.mark.parametrize("probe", ["convex", "sector"])
def test_fan_is_black_beside_its_outermost_beams(probe: str) -> None:
    geometry = fit_geometry(probe, HEIGHT, WIDTH, np.random.default_rng(1))
    picture = scan_convert(np.full((100, 80), 255, dtype=np.uint8), geometry, HEIGHT, WIDTH)
    assert not picture[: HEIGHT // 8, [0, -1]].any()
    assert (picture == 255).mean() > 0.25
    assert picture[HEIGHT // 2, WIDTH // 2] == 255


def test_linear_probe_without_margin_fills_the_picture() -> None:
    geometry = LinearGeometry(pixels_per_depth=HEIGHT, half_width=WIDTH / (2 * HEIGHT))
    picture = scan_convert(np.full((100, 80), 255, dtype=np.uint8), geometry, HEIGHT, WIDTH)
    assert (picture == 255).mean() > 0.98


def test_sector_opens_from_a_point_and_convex_from_an_arc() -> None:
    rng = np.random.default_rng(0)
    faces = {}
    for probe in ("convex", "sector"):
        x, _ = fit_geometry(probe, HEIGHT, WIDTH, rng).beam_coordinates(50, 40)
        faces[probe] = float(x[0, -1] / x[-1, -1])
    assert faces["sector"] < 0.05 < 0.2 < faces["convex"]
