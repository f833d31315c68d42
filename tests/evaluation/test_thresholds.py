import numpy as np
import pytest
from sklearn.metrics import roc_curve

from arl_lightning.errors import UserError
from arl_lightning.evaluation.thresholds import threshold_at_sensitivity, youden_threshold

LABELS = np.array([0, 0, 1, 0, 1, 1])
SCORES = np.array([0.1, 0.3, 0.4, 0.5, 0.7, 0.9])


def rates(labels: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[float, float]:
    predicted = scores >= threshold
    return predicted[labels == 1].mean(), 1 - predicted[labels == 0].mean()


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=80)
    return labels, (generator.normal(size=80) + labels).round(1)  # with ties


def test_of_equally_good_thresholds_the_lowest_is_taken():
    # Sensitivity + specificity is 1 + 2/3 between 0.3 and 0.4, and 2/3 + 1 between 0.5 and 0.7.
    assert youden_threshold(LABELS, SCORES) == pytest.approx(0.35)
    assert rates(LABELS, SCORES, 0.35) == pytest.approx((1, 2 / 3))


def test_thresholds_lie_midway_between_neighbouring_scores():
    assert youden_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])) == pytest.approx(0.4)
    assert youden_threshold(np.array([0, 1, 0, 1]), np.array([0.2, 0.6, 0.2, 0.6])) == pytest.approx(0.4)


@pytest.mark.parametrize("seed", range(10))
def test_no_threshold_has_a_greater_youden_index(seed):
    labels, scores = drawn(seed)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    sensitivity, specificity = rates(labels, scores, youden_threshold(labels, scores))
    assert sensitivity + specificity - 1 == pytest.approx((true - false).max())


@pytest.mark.parametrize("wanted", [0.1, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_sensitivity_is_reached_at_the_greatest_specificity(seed, wanted):
    labels, scores = drawn(seed)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    sensitivity, specificity = rates(labels, scores, threshold_at_sensitivity(labels, scores, wanted))
    assert sensitivity >= wanted
    assert specificity == pytest.approx(1 - false[true >= wanted].min())


def test_a_sensitivity_that_cases_meet_exactly_needs_no_further_case():
    labels, scores = np.ones(100), np.arange(100) / 100
    assert threshold_at_sensitivity(labels, scores, 0.07) == pytest.approx(0.925)  # 0.93 to 0.99 are 7 of 100
    assert threshold_at_sensitivity(LABELS, SCORES, 2 / 3) == pytest.approx(0.6)
    assert threshold_at_sensitivity(LABELS, SCORES, 1) == pytest.approx(0.35)


def test_scores_that_say_nothing_make_every_case_positive():
    assert youden_threshold(LABELS, np.full(6, 0.4)) == 0.4
    assert youden_threshold(1 - LABELS, SCORES) == 0.1  # the wrong way round: no threshold is better than none


@pytest.mark.parametrize("below", [0.3, np.nextafter(0.3, 1)])  # midpoints round to the one and to the other side
def test_a_threshold_parts_scores_that_have_no_number_between_them(below):
    above = np.nextafter(below, 1)
    assert youden_threshold(np.array([0, 1]), np.array([below, above])) == above


@pytest.mark.parametrize(("labels", "missing"), [(np.ones(4), "negative"), (np.zeros(4), "positive")])
def test_one_class_only_has_no_threshold(labels, missing):
    with pytest.raises(UserError, match=f"no {missing} case among 4"):
        youden_threshold(labels, np.arange(4) / 4)


def test_what_has_no_answer_is_refused():
    with pytest.raises(UserError, match="no positive case among 6"):
        threshold_at_sensitivity(np.zeros(6), SCORES, 0.9)
    for share in (0, 1.2):
        with pytest.raises(UserError, match=f"sensitivity {share:g}"):
            threshold_at_sensitivity(LABELS, SCORES, share)
    with pytest.raises(UserError, match="1 of 6 scores are not numbers"):
        youden_threshold(LABELS, np.where(SCORES == 0.5, np.nan, SCORES))
