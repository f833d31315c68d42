import math

import pytest

from arl_lightning.pretraining.schedules import cosine, linear_then_constant, scaled_learning_rate, warmup_cosine


@pytest.mark.parametrize(("progress", "value"), [(0.0, 0.996), (0.5, 0.998), (1 / 3, 0.997), (1.0, 1.0), (1.7, 1.0)])
def test_cosine(progress, value):
    assert cosine(progress, 0.996, 1.0) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("progress", "value"), [(0.0, 0.04), (0.15, 0.055), (0.3, 0.07), (0.9, 0.07), (1.0, 0.07)])
def test_linear_then_constant(progress, value):
    assert linear_then_constant(progress, 0.3, 0.04, 0.07) == pytest.approx(value)


def test_a_share_of_zero_is_constant_at_once():
    assert linear_then_constant(0.0, 0.0, 0.04, 0.07) == 0.07


@pytest.mark.parametrize(
    ("progress", "value"),
    [
        (0.0, 0.0),
        (0.1, 1.0),  # half of the warm-up
        (0.2, 2.0),  # its end
        (0.6, 1.25),  # half of the way from 2 to 0.5
        (0.4, 0.5 + 1.5 * (1 + math.sqrt(0.5)) / 2),  # a quarter of it
        (1.0, 0.5),
    ],
)
def test_warmup_cosine(progress, value):
    assert warmup_cosine(progress, 0.2, 2.0, 0.5) == pytest.approx(value)


@pytest.mark.parametrize(("warmup", "first"), [(0.0, 2.0), (1.0, 0.0)])
def test_warmup_may_take_no_time_or_all_of_it(warmup, first):
    assert warmup_cosine(0.0, warmup, 2.0, 0.5) == first
    assert warmup_cosine(1.0, warmup, 2.0, 0.5) == pytest.approx(2.0 if warmup == 1.0 else 0.5)


def test_the_linear_rule():
    assert scaled_learning_rate(1.5e-4, 1024) == pytest.approx(6e-4)
    assert scaled_learning_rate(1.5e-4, 64) == pytest.approx(3.75e-5)
