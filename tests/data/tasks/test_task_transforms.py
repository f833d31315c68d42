"""Images and masks are varied together, by a seed alone, and never upside down."""

import time

import cv2
import numpy as np
import pytest
import torch

from arl_lightning.data.augmentation import NUM_UNIFORMS, Augmentation, augment
from arl_lightning.data.tasks.augment import PROBE, Augment
from arl_lightning.data.tasks.fit import fit_image, fit_mask, unfit
from arl_lightning.data.tasks.photometric import Photometry, change_photometry, draw_photometry
from arl_lightning.data.tasks.transforms import eval_transform, train_transform
from arl_lightning.errors import UserError

EVERYTHING = Augment(rotate=20, ultrasound=1, cutout=0.5)
WHOLE = Augment(crop_scale=(1, 1), crop_ratio=(1, 1))


def blocks(height: int = 90, width: int = 120) -> np.ndarray:
    """A smooth picture without symmetry, so that places in it can be told apart."""
    return cv2.resize(np.random.default_rng(1).integers(0, 256, (5, 6), dtype=np.uint8), (width, height))


def test_a_seed_determines_the_result() -> None:
    image, mask = blocks(), (blocks() > 128).astype(np.uint8)
    one, other = train_transform(EVERYTHING, 64), train_transform(EVERYTHING, 64)
    for seed in range(5):
        other(image, mask, seed + 100)  # what came before does not matter
        for first, second in zip(one(image, mask, seed), other(image, mask, seed), strict=True):
            np.testing.assert_array_equal(first, second)
    assert not np.array_equal(one(image, mask, 0)[0], one(image, mask, 1)[0])


@pytest.mark.parametrize("augment", [Augment(), PROBE, EVERYTHING, Augment(rotate=45, flip=1)])
@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_the_top_row_stays_at_the_top(augment: Augment, fit: str) -> None:
    down = np.repeat(np.linspace(20, 255, 96).astype(np.uint8)[:, None], 96, axis=1)  # brighter with depth
    transform = train_transform(Augment(augment.enabled, augment.crop_scale, flip=augment.flip), 64, fit)
    rotated = train_transform(Augment(flip=augment.flip, rotate=augment.rotate), 64, fit)
    for seed in range(100):
        image, _ = transform(down, None, seed)
        assert (np.diff(image.astype(int).mean(axis=1)) >= 0).all()
        turned, _ = rotated(down, None, seed)
        assert turned[24:40, 24:40][-4:].mean() > turned[24:40, 24:40][:4].mean()


def test_the_mask_goes_with_its_image() -> None:
    image = np.zeros((90, 120), np.uint8)
    image[20:70, 10:50] = 255
    transform = train_transform(Augment(rotate=15), 96)
    for seed in range(30):
        varied, mask = transform(image, image // 255, seed)
        assert mask is not None
        near = np.ones((9, 9))  # of the border, where pixels are mixed
        inside = cv2.erode(mask, near, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        outside = cv2.dilate(mask, near)
        assert inside.any()
        assert (varied[inside == 1] > 250).all()
        assert (varied[outside == 0] < 5).all()


def test_masks_get_no_values_between_their_own() -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 3], np.uint8), (90, 120))
    for fit in ("squash", "pad", "crop"):
        assert set(np.unique(fit_mask(mask, fit, 64))) <= {0, 3}
        for seed in range(5):
            assert set(np.unique(train_transform(EVERYTHING, 64, fit)(mask, mask, seed)[1])) <= {0, 3}


def test_flips_come_as_often_as_asked_whatever_the_crop() -> None:
    across = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None], 120, axis=0)
    transform = train_transform(Augment(crop_scale=(0.3, 1), crop_ratio=(1, 1), flip=0.5), 64)
    flipped, widths = [], []
    for seed in range(400):
        row = transform(across, None, seed)[0][32].astype(int)
        flipped.append(row[0] > row[-1])
        widths.append(abs(row[-1] - row[0]))
    small = np.array(widths) < np.median(widths)
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.1)  # four standard errors
    assert np.mean(np.array(flipped)[small]) == pytest.approx(np.mean(np.array(flipped)[~small]), abs=0.2)


def test_crops_cover_the_shares_asked_for() -> None:
    ramp = np.arange(200 * 200, dtype=np.float64).reshape(200, 200)
    down = (ramp // 200 * 255 / 199).astype(np.uint8)
    across = down.T.copy()
    shares = []
    for seed in range(200):
        sides = []
        for picture in (down, across):
            crop = train_transform(Augment(crop_scale=(0.25, 0.5), flip=0), 64)(picture, None, seed)[0].astype(int)
            sides.append((crop.max() - crop.min()) / 255)
        shares.append(sides[0] * sides[1])
    assert 0.23 < min(shares) < 0.29
    assert 0.46 < max(shares) < 0.51


@pytest.mark.parametrize(("fit", "ratio"), [("squash", 2.0), ("pad", 1.0), ("crop", 1.0)])
def test_crops_show_the_proportions_of_validation(fit: str, ratio: float) -> None:
    """A square in an image twice as wide as high: `squash` makes it half as wide as high, in both."""
    image = np.zeros((100, 200), np.uint8)
    image[30:70, 80:120] = 255
    seen = {}
    for name, transform in (
        ("train", train_transform(Augment(crop_scale=(0.9, 0.9), crop_ratio=(1, 1), flip=0), 200, fit)),
        ("eval", eval_transform(fit, 200)),
    ):
        shown = transform(image, None, 3)[0] > 128
        seen[name] = shown.any(axis=1).sum() / shown.any(axis=0).sum()
    assert seen["train"] == pytest.approx(seen["eval"], abs=0.1)
    assert seen["eval"] == pytest.approx(ratio, abs=0.1)


def test_without_augmentation_an_image_looks_as_in_validation() -> None:
    image = blocks()
    for fit in ("squash", "pad", "crop"):
        expected = eval_transform(fit, 64)(image, None, 0)[0]
        np.testing.assert_array_equal(train_transform(Augment(enabled=False), 64, fit)(image, None, 9)[0], expected)
    squashed = train_transform(Augment(crop_scale=(1, 1), crop_ratio=(1, 1), flip=0), 64)(image, None, 9)[0]
    np.testing.assert_array_equal(squashed, eval_transform("squash", 64)(image, None, 0)[0])


def test_each_fit_has_its_geometry() -> None:
    image = np.full((50, 100), 200, np.uint8)
    image[:, :25] = 100
    assert fit_image(image, "squash", 100)[:, :24].max() == 100
    padded = fit_image(image, "pad", 100)
    assert (padded[:25] == 0).all()
    assert (padded[25:75, :24] == 100).all()
    assert (padded[75:] == 0).all()
    assert (fit_image(image, "crop", 50) == 200).all()  # columns 25 to 75


def test_a_prediction_returns_to_its_images_shape() -> None:
    mask = np.zeros((60, 100), np.uint8)
    mask[20:40, 35:70] = 2
    for fit in ("squash", "pad", "crop"):
        back = unfit(fit_mask(mask, fit, 300), fit, mask.shape)
        np.testing.assert_array_equal(back, mask)
    scores = np.random.default_rng(0).random((32, 32, 3), np.float32)
    assert unfit(scores, "crop", (60, 100)).shape == (60, 100, 3)


def test_photometry_is_pretrainings() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 80), dtype=np.uint8)
    image[:16] = 0
    numbers = np.random.default_rng(2).random((40, NUM_UNIFORMS))
    views = torch.from_numpy(image / 255).float().expand(40, 1, 1, 64, 80)
    theirs = augment(views, torch.from_numpy(numbers)[:, None], Augmentation())[:, 0, 0].numpy()
    for row, expected in zip(numbers, theirs, strict=True):
        ours = change_photometry(image, draw_photometry(row.tolist(), share=0.5))
        np.testing.assert_allclose(ours, expected * 255, atol=0.51)


def test_photometry_changes_nothing_by_default_and_treats_channels_alike() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 80), dtype=np.uint8)
    np.testing.assert_array_equal(change_photometry(image, Photometry()), image)
    how = Photometry(gain=1.2, gamma=0.8, slope=-0.5, haze=0.2, shadow=0.5)
    rgb = change_photometry(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), how)
    np.testing.assert_allclose(rgb, np.repeat(change_photometry(image, how)[..., None], 3, axis=2), atol=1)


def test_ultrasound_changes_leave_the_mask_and_the_geometry() -> None:
    image, mask = blocks(), (blocks() > 128).astype(np.uint8)
    plain, changed = train_transform(WHOLE, 64), train_transform(Augment(True, (1, 1), (1, 1), ultrasound=1), 64)
    differing = 0
    for seed in range(10):
        np.testing.assert_array_equal(plain(image, mask, seed)[1], changed(image, mask, seed)[1])
        differing += not np.array_equal(plain(image, mask, seed)[0], changed(image, mask, seed)[0])
    assert differing == 10


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("crop_scale", scale) for scale in ((0, 1), (0.5, 0.4), (0.5, 1.5), (float("nan"), 1))),
        *(("crop_ratio", ratio) for ratio in ((0, 1), (2, 1))),
        *(("rotate", angle) for angle in (-1, 90, float("nan"))),
        *((name, 1.5) for name in ("flip", "ultrasound", "cutout")),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^augment\.{key} "):
        Augment(**{key: value})  # type: ignore[arg-type]


def test_an_image_is_varied_in_under_a_millisecond() -> None:
    transform, image = train_transform(Augment(), 112), blocks(150, 190)
    transform(image, None, 0)
    start = time.process_time()  # of this process alone, whatever else the machine does
    for seed in range(200):
        transform(image, None, seed)
    assert (time.process_time() - start) / 200 < 1e-3
