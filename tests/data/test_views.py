import cv2
import numpy as np
import pytest

from arl_lightning.data.views import MAX_RATIO, MIN_RATIO, Box, CropSource, MultiCrop, crop_box, crop_views


def ramp(height: int, width: int) -> np.ndarray:
    """Brightness rises with depth and, ten times slower, from left to right."""
    rows, columns = np.mgrid[0:height, 0:width]
    return (200 * rows / height + 20 * columns / width).astype(np.uint8)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    return CropSource(image).cut(Box(0, 0, *image.shape[:2]), size)


@pytest.mark.parametrize(("shape", "channels"), [((50, 65), 1), ((50, 65, 3), 3)])
def test_shapes_and_dtype(shape, channels):
    views = MultiCrop(2, 32, (0.32, 1.0), 3, 16, (0.05, 0.32))(np.zeros(shape, np.uint8), np.random.default_rng(0))
    assert views["global_views"].shape == (2, channels, 32, 32)
    assert views["local_views"].shape == (3, channels, 16, 16)
    assert views["global_views"].dtype == views["local_views"].dtype == np.uint8


def test_no_local_views():
    views = MultiCrop(num_local=0)(np.zeros((50, 65), np.uint8), np.random.default_rng(0))
    assert views["local_views"].shape == (0, 1, 96, 96)


def test_views_are_a_function_of_the_generator():
    image = np.random.default_rng(1).integers(0, 256, (50, 65), np.uint8)
    crop = MultiCrop(2, 32, num_local=2, local_size=16)
    first, again, other = (crop(image, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first["global_views"], again["global_views"])
    assert np.array_equal(first["local_views"], again["local_views"])
    assert not np.array_equal(first["global_views"], other["global_views"])


def test_boxes_keep_scale_and_ratio():
    generator = np.random.default_rng(0)
    boxes = np.array([crop_box(500, 650, (0.05, 0.32), draws) for draws in generator.random((5_000, 5))])
    top, left, height, width = boxes.T
    share, ratio = height * width / (500 * 650), width / height
    assert share.min() > 0.049
    assert share.max() < 0.322
    assert share.mean() == pytest.approx((0.05 + 0.32) / 2, abs=0.005)
    assert ratio.min() > MIN_RATIO - 0.02
    assert ratio.max() < MAX_RATIO + 0.02
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.01)
    assert top.min() == 0
    assert left.min() == 0
    assert (top + height).max() == 500
    assert (left + width).max() == 650


@pytest.mark.parametrize(("height", "width"), [(500, 650), (100, 400), (400, 100), (1, 1), (3, 200)])
def test_boxes_lie_inside_images_of_any_shape(height, width):
    for draws in np.random.default_rng(0).random((500, 5)):
        top, left, crop_height, crop_width = crop_box(height, width, (0.05, 1.0), draws)
        assert min(top, left) >= 0
        assert min(crop_height, crop_width) >= 1
        assert top + crop_height <= height
        assert left + crop_width <= width


def test_box_by_hand():
    # A quarter of 100 x 100 at ratio (3/4)^(1/2) (4/3)^(1/2) = 1 is 50 x 50, placed in the middle of 51 places.
    assert crop_box(100, 100, (0.25, 0.25), np.array([0.0, 0.5, 0.5, 0.5, 0.0])) == (25, 25, 50, 50)


def test_half_of_the_views_are_flipped_and_none_upside_down():
    views = crop_views(CropSource(ramp(60, 60)), 400, 32, (0.5, 1.0), np.random.default_rng(0)).astype(float)[:, 0]
    assert (views[:, -1].mean(axis=1) > views[:, 0].mean(axis=1)).all()
    flipped = views[:, :, 0].mean(axis=1) > views[:, :, -1].mean(axis=1)
    assert flipped.mean() == pytest.approx(0.5, abs=0.1)  # the standard error is 0.025


def test_shrinking_averages_areas():
    image = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    expected = image.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(resize(image, 16) - expected).max() <= 0.5


@pytest.mark.parametrize("factor", [0.5, 1.5, 1.9, 2.4, 2.6, 3.4, 3.9, 4.1])
def test_resizing_keeps_fine_detail(factor):
    size, oversampling = 96, 8
    side = round(size * factor)
    noise = np.random.default_rng(0).rayleigh(40, (side, side))
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 1.0), 0, 255).astype(np.uint8)
    # Every output pixel is the mean over its square of the interpolated image.
    fine = cv2.resize(image.astype(np.float64), (size * oversampling,) * 2, interpolation=cv2.INTER_CUBIC)
    reference = fine.reshape(size, oversampling, size, oversampling).mean(axis=(1, 3))
    assert np.corrcoef(resize(image, size).ravel(), reference.ravel())[0, 1] > 0.98


def test_colour_channels_stay_apart():
    image = np.zeros((40, 40, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 10, 20, 30
    views = crop_views(CropSource(image), 1, 16, (0.5, 1.0), np.random.default_rng(0))
    assert views[0].mean(axis=(1, 2)).tolist() == [10, 20, 30]


def test_global_views_take_the_first_draws_and_local_views_the_following():
    image = np.random.default_rng(1).integers(0, 256, (50, 65), np.uint8)
    views = MultiCrop(2, 32, (0.32, 1.0), 3, 16, (0.05, 0.32))(image, np.random.default_rng(7))
    draws = np.random.default_rng(7).random((5, 5))
    for view, draw, size, scale in zip(
        [*views["global_views"], *views["local_views"]],
        draws,
        [32] * 2 + [16] * 3,
        [(0.32, 1.0)] * 2 + [(0.05, 0.32)] * 3,
        strict=True,
    ):
        top, left, height, width = crop_box(50, 65, scale, draw)
        expected = resize(image[top : top + height, left : left + width], size)
        assert np.array_equal(view[0], expected[:, ::-1] if draw[4] < 0.5 else expected)


def test_at_a_third_a_pixel_is_the_mean_of_its_own_nine():
    image = np.zeros((90, 90), np.uint8)
    image[29] = 90  # the row above the crop
    crop = CropSource(image).cut(Box(30, 30, 30, 30), 10)
    assert crop[0].tolist() == [0] * 10  # the first output pixel's centre is row 31, whose mean starts at row 30
    image[30] = 90
    assert CropSource(image).cut(Box(30, 30, 30, 30), 10)[0].tolist() == [30] * 10
