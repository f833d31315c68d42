import math

import numpy as np
import pytest
from scipy import stats

from arl_lightning.evaluation.bootstrap import bootstrap_interval, paired_bootstrap, resamples

VALUES = np.random.default_rng(7).gamma(2, size=80)


def mean_of(values: np.ndarray):
    return lambda at: {"mean": float(values[at].mean())}


def ends(interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_the_interval_is_that_of_scipy():
    found = bootstrap_interval(mean_of(VALUES), np.arange(80), 10_000)["mean"]
    expected = stats.bootstrap(
        (VALUES,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    error = VALUES.std() / math.sqrt(80)
    # A 2.5% quantile of 10,000 normal draws has a standard error of 0.027 of theirs; two of them differ by 0.038.
    assert ends(found) == pytest.approx((expected.low, expected.high), abs=0.12 * error)
    assert found.value == VALUES.mean()
    assert (found.level, found.num_groups, found.num_valid) == (0.95, 80, 10_000)


def test_a_level_takes_its_share_of_the_resamples():
    narrow, wide = (bootstrap_interval(mean_of(VALUES), np.arange(80), 2000, level=level) for level in (0.5, 0.9))
    drawn = np.array([VALUES[at].mean() for at in resamples(np.arange(80), 2000, seed=0)])
    for found, level in ((narrow["mean"], 0.5), (wide["mean"], 0.9)):
        assert np.mean((drawn >= found.low) & (drawn <= found.high)) == pytest.approx(level, abs=0.002)


def test_groups_are_drawn_whole():
    groups = np.array(["b", "a", "b", "c", "b", "c"])
    for places in resamples(groups, 200, seed=0):
        counts = np.bincount(places, minlength=6)
        assert counts[0] == counts[2] == counts[4]
        assert counts[3] == counts[5]
        assert counts[0] + counts[1] + counts[3] == 3  # three groups, with replacement


def test_two_groups_have_the_four_resamples_that_are_worked_out_by_hand():
    # One patient has one image of value 0, the other three of value 1: aa, ab, ba, bb have means 0, 3/4, 3/4, 1.
    values = np.array([0.0, 1.0, 1.0, 1.0])
    drawn = [values[at].mean() for at in resamples(np.array([5, 9, 9, 9]), 4000, seed=0)]
    found, counts = np.unique(drawn, return_counts=True)
    assert found.tolist() == [0, 0.75, 1]
    assert counts / 4000 == pytest.approx([1 / 4, 1 / 2, 1 / 4], abs=0.03)


def test_copies_of_an_image_leave_its_patients_interval_as_it_is():
    once = bootstrap_interval(mean_of(VALUES), np.arange(80))["mean"]
    patients = np.repeat(np.arange(80), 4)
    copies = bootstrap_interval(mean_of(np.repeat(VALUES, 4)), patients)["mean"]
    assert ends(copies) == pytest.approx(ends(once))
    assert copies.num_groups == 80
    as_images = bootstrap_interval(mean_of(np.repeat(VALUES, 4)), np.arange(320))["mean"]
    assert as_images.high - as_images.low == pytest.approx((once.high - once.low) / 2, rel=0.1)  # wrongly sure


def test_a_seed_decides_the_draw_and_nothing_else_does():
    groups = np.repeat(np.arange(20), 4)
    first = bootstrap_interval(mean_of(VALUES), groups, 200, seed=3)
    np.random.seed(1)  # noqa: NPY002  global state must not matter
    assert bootstrap_interval(mean_of(VALUES), groups, 200, seed=3) == first
    assert bootstrap_interval(mean_of(VALUES), groups, 200, seed=4) != first
    other = np.random.default_rng(0).permutation(80)  # neither does the order of the cases
    shuffled = bootstrap_interval(mean_of(VALUES[other]), groups[other], 200, seed=3)["mean"]
    assert ends(shuffled) == pytest.approx(ends(first["mean"]))


def test_resamples_without_a_value_are_left_out_and_counted():
    labels = np.array([1, 0, 0])

    def statistic(at: np.ndarray) -> dict[str, float]:
        both = 0 < labels[at].sum() < 3
        return {"needs both": labels[at].mean() if both else math.nan, "always": labels[at].mean()}

    found = bootstrap_interval(statistic, np.arange(3), 3000)
    assert found["always"].num_valid == 3000
    # Three draws are all negative in 8 of 27 cases, all positive in 1.
    assert found["needs both"].num_valid / 3000 == pytest.approx(18 / 27, abs=0.03)
    assert ends(found["needs both"]) == pytest.approx((1 / 3, 2 / 3))
    assert ends(found["always"]) == (0, 1)  # 3 positives are 1 draw of 27, more than 2.5%


def test_one_group_or_no_value_has_no_interval():
    single = bootstrap_interval(mean_of(VALUES), np.zeros(80), 50)["mean"]
    assert single.value == VALUES.mean()
    assert single.num_groups == 1
    never = bootstrap_interval(lambda at: {"mean": math.nan}, np.arange(80), 50)["mean"]
    assert never.num_valid == 0
    assert all(math.isnan(end) for end in (*ends(single), *ends(never)))
    pair = paired_bootstrap(mean_of(VALUES), mean_of(VALUES), np.zeros(80), 50)["mean"]
    assert math.isnan(pair.p)


def test_intervals_over_patients_hold_the_truth_and_those_over_images_do_not():
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 5)
    holds = []
    for seed in range(200):
        values = generator.normal(size=60)[patients] + 0.5 * generator.normal(size=300)
        intervals = [bootstrap_interval(mean_of(values), groups, 150, seed) for groups in (patients, np.arange(300))]
        holds.append([each["mean"].low <= 0 <= each["mean"].high for each in intervals])
    over_patients, over_images = np.mean(holds, axis=0)
    assert 0.885 <= over_patients <= 0.98  # 93% of many sets: percentile intervals are a little narrow; error 1.8%
    assert over_images < 0.75


def test_what_cannot_be_resampled_is_refused():
    for groups, num_resamples, level in ((np.arange(0), 10, 0.95), (np.arange(3), 0, 0.95), (np.arange(3), 10, 1.0)):
        with pytest.raises(ValueError, match=f"{len(groups)} cases, {num_resamples} resamples, level {level}"):
            bootstrap_interval(lambda at: {}, groups, num_resamples, level=level)


def test_a_difference_is_that_of_the_same_resamples():
    other = VALUES + np.random.default_rng(0).normal(0.2, 0.3, size=80)
    found = paired_bootstrap(mean_of(VALUES), mean_of(other), np.arange(80), 1000, seed=5)["mean"]
    alone = bootstrap_interval(mean_of(VALUES - other), np.arange(80), 1000, seed=5)["mean"]
    assert ends(found) == pytest.approx(ends(alone))
    assert found.difference == pytest.approx(found.value_a - found.value_b) == pytest.approx(alone.value)
    # Pairing: what both methods find hard cancels out.
    width = bootstrap_interval(mean_of(VALUES), np.arange(80), 1000)["mean"]
    assert found.high - found.low < (width.high - width.low) / 2


def test_methods_trade_places():
    other = VALUES + np.random.default_rng(0).normal(0.05, 0.3, size=80)
    one = paired_bootstrap(mean_of(VALUES), mean_of(other), np.arange(80), 500)["mean"]
    back = paired_bootstrap(mean_of(other), mean_of(VALUES), np.arange(80), 500)["mean"]
    assert (back.difference, back.low, back.high, back.p) == pytest.approx(
        (-one.difference, -one.high, -one.low, one.p)
    )


def test_a_method_does_not_differ_from_itself():
    found = paired_bootstrap(mean_of(VALUES), mean_of(VALUES), np.arange(80), 100)["mean"]
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_p_counts_resamples_on_the_far_side_of_zero_and_is_never_zero():
    better = paired_bootstrap(mean_of(VALUES + 1), mean_of(VALUES), np.arange(80), 999)["mean"]
    assert better.p == 2 / 1000
    values = np.array([-1.0, 1, 1, 1, 1, 1])
    found = paired_bootstrap(mean_of(values), mean_of(np.zeros(6)), np.arange(6), 2000, seed=2)["mean"]
    far = sum(values[at].mean() <= 0 for at in resamples(np.arange(6), 2000, seed=2))
    assert found.p == 2 * (far + 1) / 2001
    exact = sum(math.comb(6, k) * 5 ** (6 - k) for k in range(3, 7)) / 6**6  # the -1 drawn at least three times
    assert far / 2000 == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("shift", np.linspace(0.02, 0.16, 8))
def test_p_is_small_where_the_interval_leaves_out_zero(shift):
    other = VALUES + np.random.default_rng(0).normal(shift, 0.4, size=80)
    found = paired_bootstrap(mean_of(other), mean_of(VALUES), np.arange(80), 1000)["mean"]
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0) or found.p == pytest.approx(0.05, abs=0.003)


def test_equal_methods_are_told_apart_as_rarely_as_p_says():
    generator = np.random.default_rng(0)
    chosen = []
    for seed in range(200):
        a, b = generator.normal(size=(2, 60)) + generator.normal(size=60)
        chosen.append(paired_bootstrap(mean_of(a), mean_of(b), np.arange(60), 200, seed)["mean"].p < 0.05)
    assert 0.01 <= np.mean(chosen) <= 0.09


def test_only_values_that_both_methods_have_are_compared_where_both_are_defined():
    labels = np.arange(4) < 2

    def needs(kind: np.ndarray):
        return lambda at: {"shared": 1.0 if kind[at].any() else math.nan, f"own {kind[0]}": 0.0}

    found = paired_bootstrap(needs(labels), needs(~labels), np.arange(4), 2000)
    assert list(found) == ["shared"]
    assert found["shared"].num_valid / 2000 == pytest.approx(1 - 2 / 2**4, abs=0.03)  # neither kind is missing
