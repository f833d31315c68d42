import time

import cv2
import numpy as np
import pytest

from arl_lightning.data.anatomy import ANATOMIES, OTHER
from arl_lightning.data.phantom import generate, generate_phantom
from arl_lightning.data.phantom.generator import HEIGHTS, SCENES, WIDTHS, draw_size
from arl_lightning.errors import UserError

ALL = [*ANATOMIES, OTHER]
SLOWEST_ACCEPTED = 8.0  # images a second; far below the measured figure, for busy machines


def test_every_anatomy_has_a_scene() -> None:
    assert set(SCENES) == set(ALL)


@pytest.mark.parametrize("anatomy", ALL)
def test_each_anatomy_shows_structure_in_its_field(anatomy: str) -> None:
    phantom = generate_phantom(anatomy, 3, (160, 200))
    assert phantom.image.dtype == np.uint8
    assert phantom.image.shape == (160, 200)
    assert phantom.probe in SCENES[anatomy].probes
    assert phantom.image.std() > 15.0
    assert 0.01 < (phantom.image > 128).mean() < 0.6
    corners = phantom.image[:8, [0, -1]]
    assert phantom.probe == "linear" or not corners.any()


@pytest.mark.parametrize("anatomy", ALL)
@pytest.mark.parametrize("size", [(64, 64), (64, 1280), (960, 64)])
def test_extreme_sizes_are_honoured(anatomy: str, size: tuple[int, int]) -> None:
    with np.errstate(all="raise", under="ignore"):
        image = generate(anatomy, 0, size)
    assert image.shape == size
    assert image.std() > 5.0


@pytest.mark.parametrize("anatomy", ["breast", "liver", "cardiac"])
def test_largest_size_is_honoured(anatomy: str) -> None:
    assert generate(anatomy, 0, (960, 1280)).shape == (960, 1280)


@pytest.mark.parametrize("anatomy", ALL)
def test_seed_determines_the_picture(anatomy: str) -> None:
    first = generate(anatomy, 7, (96, 128))
    np.random.seed(0)  # noqa: NPY002 (the global state must not matter)
    again = generate(anatomy, np.random.default_rng(7), (96, 128))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, generate(anatomy, 8, (96, 128)))


def test_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    generate("lung", 0, (64, 64))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_thread_count_of_opencv_does_not_matter() -> None:
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        single = generate("kidney", 0, (300, 400))
    finally:
        cv2.setNumThreads(threads)
    assert np.array_equal(single, generate("kidney", 0, (300, 400)))


def test_drawn_sizes_resemble_the_corpus() -> None:
    rng = np.random.default_rng(0)
    heights, widths = np.array([draw_size(rng) for _ in range(4000)]).T
    assert HEIGHTS[0] <= heights.min() < heights.max() <= HEIGHTS[1]
    assert WIDTHS[0] <= widths.min() < widths.max() <= WIDTHS[1]
    assert (heights.mean(), heights.std()) == pytest.approx((503, 167), rel=0.1)
    assert (widths.mean(), widths.std()) == pytest.approx((656, 238), rel=0.1)


def test_alias_stands_for_its_anatomy() -> None:
    assert np.array_equal(generate("heart", 0, (64, 64)), generate("cardiac", 0, (64, 64)))


def test_unknown_anatomy_and_tiny_size_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'kidney'"):
        generate("kidny", 0)
    with pytest.raises(UserError, match="8 x 64"):
        generate("kidney", 0, (8, 64))


def test_rib_shadow_is_darker_than_the_intercostal_space() -> None:
    phantoms = [generate_phantom("lung", seed, (320, 400)) for seed in range(8)]
    linear = [phantom.image for phantom in phantoms if phantom.probe == "linear"]
    assert linear
    for image in linear:
        columns = image[160:].mean(axis=0)
        inside = columns[columns.nonzero()[0].min() + 1 :]
        smooth = np.convolve(inside, np.ones(12) / 12, mode="valid")
        assert smooth.min() < 0.4 * np.median(smooth)


def test_throughput() -> None:
    generate("liver", 0, (400, 500))
    start = time.process_time()
    for seed, anatomy in enumerate(ALL):
        generate(anatomy, seed, (400, 500))
    rate = len(ALL) / (time.process_time() - start)
    print(f"{rate:.1f} phantoms of 400 x 500 a second of CPU time")  # noqa: T201 (shown by `pytest -s`)
    assert rate > SLOWEST_ACCEPTED
