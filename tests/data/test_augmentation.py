import math

import pytest
import torch
import torch.nn.functional as F

from arl_lightning.data.augmentation import (
    NUM_UNIFORMS,
    Augmentation,
    add_haze,
    apply_gain,
    attenuate,
    augment,
    cast_shadow,
    change_dynamic_range,
)
from arl_lightning.data.draws import uniform

STEPS = ("gain", "dynamic_range", "attenuation", "haze", "shadow")


def speckle(batch: int = 4, views: int = 2, size: int = 64) -> torch.Tensor:
    """Tissue of multiplicative noise around 0.4, float64 (B, V, 1, H, W)."""
    noise = torch.rand(batch, views, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 0.4 * (0.5 + noise)


def draws(images: torch.Tensor, stream: int = 0) -> torch.Tensor:
    batch, views = images.shape[:2]
    numbers = uniform(torch.arange(batch), views * NUM_UNIFORMS, stream, torch.float64)
    return numbers.view(batch, views, NUM_UNIFORMS)


def with_probability(value: float, only: str | None = None) -> Augmentation:
    return Augmentation(**{f"{step}_probability": value if only in (None, step) else 0.0 for step in STEPS})


def fine_detail(images: torch.Tensor) -> torch.Tensor:
    """Each pixel minus the mean of its 5 x 5 neighbourhood, divided by that mean: speckle without brightness."""
    flat = images.flatten(0, 2)[:, None]  # (B, V, C, H, W) -> (B V C, 1, H, W)
    mean = F.avg_pool2d(flat, 5, 1, 2, count_include_pad=False)
    return ((flat - mean) / mean.clamp(min=1e-3))[..., 4:-4, 4:-4]


def one(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def constant(value: float, height: int = 17, width: int = 33) -> torch.Tensor:
    return torch.full((1, 1, 1, height, width), value, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probability_zero_is_the_identity(dtype):
    images = speckle().to(dtype)
    augmented = augment(images, draws(images), with_probability(0.0))
    assert augmented.dtype == dtype
    assert torch.equal(augmented, images)


@pytest.mark.parametrize("step", STEPS)
def test_each_step_alone_changes_images_and_stays_in_range(step):
    images = speckle()
    augmented = augment(images, draws(images), with_probability(1.0, only=step))
    assert not torch.allclose(augmented, images)
    assert augmented.min() >= 0
    assert augmented.max() <= 1


def test_probability_is_the_share_of_changed_views():
    images = speckle(batch=400, views=2, size=8)
    often = Augmentation(0.3, (0.5, 0.5), 0.0, (1, 1), 0.0, (0, 0), 0.0, (0, 0), 0.0)
    augmented = augment(images, draws(images), often)
    changed = (augmented != images).flatten(2).any(dim=2).double().mean().item()
    assert changed == pytest.approx(0.3, abs=0.06)  # the standard error of 800 is 0.016


def test_output_is_a_function_of_the_uniforms():
    images, augmentation = speckle(), with_probability(0.5)
    state = torch.get_rng_state()
    first = augment(images, draws(images), augmentation)
    assert torch.equal(first, augment(images, draws(images), augmentation))
    assert not torch.equal(first, augment(images, draws(images, stream=1), augmentation))
    assert torch.equal(state, torch.get_rng_state())


def test_a_sample_does_not_depend_on_its_batch():
    images, augmentation = speckle(), with_probability(1.0)
    uniforms = draws(images)
    together = augment(images, uniforms, augmentation)
    alone = torch.cat([augment(images[i : i + 1], uniforms[i : i + 1], augmentation) for i in range(len(images))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-14)


def test_gain_multiplies():
    torch.testing.assert_close(apply_gain(constant(0.5), one(1.3)), constant(0.65))


def test_dynamic_range_is_a_power():
    torch.testing.assert_close(change_dynamic_range(constant(0.25), one(0.5)), constant(0.5))
    assert change_dynamic_range(constant(0.0), one(0.7)).max() == 0


def test_attenuation_is_exponential_in_depth():
    rows = attenuate(constant(0.5), one(-0.6))[0, 0, 0, :, 7]
    expected = [0.5 * math.exp(0.3), 0.5, 0.5 * math.exp(-0.3)]
    assert rows[[0, 8, 16]].tolist() == pytest.approx(expected)


def test_haze_fades_with_depth_and_waves_across():
    haze = (add_haze(constant(0.5), one(0.2), one(0.25)) - 0.5)[0, 0, 0]
    # Columns 8 and 24 of 33 lie at 1/4 and 3/4: the wave's crest and its trough.
    assert haze[0, 8].item() == pytest.approx(0.2)
    assert haze[0, 24].item() == pytest.approx(0.0, abs=1e-12)
    assert haze[8, 8].item() == pytest.approx(0.2 * math.exp(-0.5 / 0.3))


def test_haze_leaves_the_background_black():
    images = speckle(1, 1, 64)
    images[..., :40] = 0
    hazy = add_haze(images, one(0.25), one(0.0))
    assert hazy[..., :28].max() == 0  # further than a neighbourhood and a half from tissue
    assert (hazy - images)[..., 0, -1].item() == pytest.approx(0.25)


def test_shadow_darkens_a_band_below_a_depth():
    shadow = cast_shadow(constant(0.5), one(0.8), one(0.5), one(0.1), one(0.25))[0, 0, 0] / 0.5
    assert shadow[16, 16].item() == pytest.approx(0.2, abs=1e-6)
    assert shadow[4, 16].item() == pytest.approx(1 - 0.8 / 2)  # where it begins: half of it
    assert shadow[0, 16].item() == pytest.approx(1, abs=1e-3)
    assert shadow[16, 0].item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("step", STEPS)
def test_speckle_survives(step):
    images = speckle()
    augmented = augment(images, draws(images), with_probability(1.0, only=step))
    before, after = fine_detail(images).flatten(1), fine_detail(augmented).flatten(1)
    correlation = [torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in zip(before, after, strict=True)]
    assert min(correlation) > 0.95
    # Local contrast changes by at most the exponent for gamma, and falls where haze adds to the mean.
    ratio = after.std(dim=1) / before.std(dim=1)
    assert ratio.min() > 0.65
    assert ratio.max() < 1.45


def test_a_blur_would_fail_the_speckle_test():
    images = speckle()
    blurred = F.avg_pool2d(images.flatten(0, 2)[:, None], 3, 1, 1, count_include_pad=False).view(images.shape)
    before, after = fine_detail(images).flatten(1), fine_detail(blurred).flatten(1)
    assert (after.std(dim=1) / before.std(dim=1)).max() < 0.5
