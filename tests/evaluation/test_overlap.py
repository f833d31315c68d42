import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.evaluation.overlap import Overlap, dice, hd95, iou, mean_overlap, score_masks, surface


def square(top: int, left: int, side: int, shape: tuple[int, int] = (32, 40)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def blobs(seed: int, shape: tuple[int, int] = (24, 31)) -> np.ndarray:
    """Ragged masks with holes and islands, some of them touching the image's edge."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    disks = [
        (y - row) ** 2 + (x - column) ** 2 < radius**2
        for row, column, radius in draw.uniform((0, 0, 2), (*shape, 8), (3, 3))
    ]
    return np.any(disks, axis=0) & (draw.random(shape) < 0.9)


def slow_hd95(first: np.ndarray, second: np.ndarray) -> float:
    """The definition, pair by pair."""

    def boundary(mask: np.ndarray) -> list[tuple[int, int]]:
        inside = {(int(row), int(column)) for row, column in np.argwhere(mask)}
        steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
        return [(y, x) for y, x in inside if any((y + down, x + right) not in inside for down, right in steps)]

    def directed(start: list[tuple[int, int]], end: list[tuple[int, int]]) -> float:
        nearest = sorted(min(math.dist(pixel, other) for other in end) for pixel in start)
        place = 0.95 * (len(nearest) - 1)
        low, share = int(place), place - int(place)
        return nearest[low] + share * (nearest[min(low + 1, len(nearest) - 1)] - nearest[low])

    a, b = boundary(first), boundary(second)
    return max(directed(a, b), directed(b, a))


def test_overlaps_by_hand():
    prediction = np.array([[1, 1, 0], [1, 0, 0]], dtype=bool)
    truth = np.array([[0, 1, 1], [1, 0, 1]], dtype=bool)
    assert dice(prediction, truth) == pytest.approx(2 * 2 / (3 + 4))
    assert iou(prediction, truth) == pytest.approx(2 / 5)


def test_a_square_moved_by_three_is_three_pixels_away():
    # Along each side that moved off, at least 5% of the surface lies the full three pixels away.
    assert hd95(square(4, 4, 10), square(4, 7, 10)) == 3
    assert hd95(square(4, 4, 10), square(7, 8, 10)) == pytest.approx(slow_hd95(square(4, 4, 10), square(7, 8, 10)))


def test_a_percentile_is_interpolated_and_the_larger_direction_counts():
    # A row of 20 pixels against a row of 21: all but the last are 0 away. Of 21 distances, the 95th percentile is the
    # 20th in order, 0. With 19 against 20 its place is 0.95 * 19 = 18.05, of which 0.05 is the way to distance 1.
    def row(length: int) -> np.ndarray:
        return np.arange(40)[None] < length

    assert hd95(row(20), row(21)) == 0
    assert hd95(row(19), row(20)) == pytest.approx(0.05)
    assert hd95(row(20), row(19)) == pytest.approx(0.05)
    assert hd95(row(1), row(5)) == pytest.approx(3.8)  # 0 the one way; 0, 1, 2, 3, 4 the other


def test_a_speck_far_away_does_not_count_as_much_as_the_maximum():
    truth = square(4, 4, 12)
    speck = truth.copy()
    speck[30, 38] = True  # 1 of 45 surface pixels
    assert hd95(truth, truth) == 0
    assert hd95(speck, truth) == 0  # the plain Hausdorff distance is 27.5


@pytest.mark.parametrize("seed", range(12))
def test_hd95_is_that_of_every_pair_of_surface_pixels(seed):
    first, second = blobs(seed), blobs(seed + 100)
    assert hd95(first, second) == pytest.approx(slow_hd95(first, second), abs=1e-9)
    assert hd95(first, second) == hd95(second, first)


def test_the_surface_has_the_images_edge_and_leaves_the_inside_out():
    expected = square(0, 0, 5, (8, 8)) & ~square(1, 1, 3, (8, 8))
    assert np.array_equal(surface(square(0, 0, 5, (8, 8))), expected)


def test_an_absence_rightly_predicted_is_perfect():
    nothing = np.zeros((5, 6), dtype=bool)
    assert (dice(nothing, nothing), iou(nothing, nothing), hd95(nothing, nothing)) == (1, 1, 0)


@pytest.mark.parametrize("missed", [True, False])
def test_a_structure_missed_or_invented_has_no_distance(missed):
    masks = [square(0, 0, 2), np.zeros((32, 40), dtype=bool)]
    prediction, truth = masks[::-1] if missed else masks
    assert (dice(prediction, truth), iou(prediction, truth)) == (0, 0)
    assert math.isnan(hd95(prediction, truth))


def test_masks_of_other_sizes_are_refused():
    for score in (dice, iou, hd95):
        with pytest.raises(ValueError, match=r"masks of \(32, 40\) and \(40, 32\) cannot be compared"):
            score(square(0, 0, 2), square(0, 0, 2, (40, 32)))


def test_each_structure_has_its_own_row():
    truth = np.array([[1, 1, 2, 2]], dtype=np.uint8)
    prediction = np.array([[1, 2, 2, 0]], dtype=np.int64)
    rows = score_masks(prediction, truth, ("cavity", "wall", "atrium"), index=7)
    assert rows[0] == Overlap(7, "cavity", dice=2 / 3, iou=1 / 2, hd95=pytest.approx(0.95))
    assert rows[1] == Overlap(7, "wall", dice=1 / 2, iou=1 / 3, hd95=pytest.approx(0.95))
    assert rows[2] == Overlap(7, "atrium", dice=1, iou=1, hd95=0)


def test_means_leave_out_undefined_distances_alone():
    nan = float("nan")
    rows = [Overlap(0, "cavity", 0.8, 0.6, 2.0), Overlap(0, "wall", 0.5, 0.4, 6.0), Overlap(1, "cavity", 0.0, 0.0, nan)]
    means = mean_overlap(rows)
    assert means["dice"] == pytest.approx((0.4 + 0.5) / 2)  # a structure counts once, not once an image
    assert means["hd95"] == pytest.approx(4)
    assert (means["dice/cavity"], means["iou/cavity"], means["hd95/cavity"]) == pytest.approx((0.4, 0.3, 2))
    assert (means["dice/wall"], means["hd95/wall"]) == (0.5, 6)
    assert math.isnan(mean_overlap(rows[2:])["hd95"])
    assert set(mean_overlap(rows[2:])) == {"dice", "iou", "hd95"}  # one structure's means are the means
    assert all(math.isnan(value) for value in mean_overlap([]).values())


def test_lesions_of_real_images_score_as_by_pairs(ultrasound_data: Path):
    folder = ultrasound_data / "busi/Dataset_BUSI_with_GT/malignant"
    first, second = (np.asarray(Image.open(folder / f"malignant ({n})_mask.png").convert("L")) > 0 for n in (1, 2))
    rows, columns = (min(sizes) for sizes in zip(first.shape, second.shape, strict=True))
    first, second = first[:rows, :columns], second[:rows, :columns]
    assert hd95(first, second) == pytest.approx(slow_hd95(first, second), abs=1e-9)
    assert hd95(first, np.roll(first, 2, axis=1)) <= 2
