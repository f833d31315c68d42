import numpy as np
import pytest
import torch
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError

from arl_lightning.evaluation.calibration import (
    brier_score,
    confidences,
    expected_calibration_error,
    reliability_table,
)


def drawn(num_cases: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.integers(num_classes, size=num_cases), generator.dirichlet(np.ones(num_classes), size=num_cases)


def test_five_cases_in_two_bins_by_hand():
    confidence = np.array([0.1, 0.2, 0.5, 0.7, 0.9])
    outcome = np.array([False, True, False, True, True])
    low, high = reliability_table(confidence, outcome, num_bins=2)
    assert (low.low, low.high, low.num_cases) == (0, 0.5, 3)  # 0.5 belongs to the bin that it ends
    assert (low.confidence, low.accuracy) == pytest.approx((0.8 / 3, 1 / 3))
    assert (high.low, high.high, high.num_cases) == (0.5, 1, 2)
    assert (high.confidence, high.accuracy) == pytest.approx((0.8, 1))
    assert expected_calibration_error(confidence, outcome, num_bins=2) == pytest.approx((0.2 + 0.4) / 5)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_two_classes_agree_with_torchmetrics(num_bins):
    labels, probabilities = drawn(500, 2)
    expected = BinaryCalibrationError(n_bins=num_bins)(torch.tensor(probabilities[:, 1]), torch.tensor(labels))
    found = expected_calibration_error(*confidences(labels, probabilities, 1), num_bins=num_bins)
    assert found == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_several_classes_agree_with_torchmetrics(num_bins):
    labels, probabilities = drawn(500, 4)
    expected = MulticlassCalibrationError(4, n_bins=num_bins)(torch.tensor(probabilities), torch.tensor(labels))
    found = expected_calibration_error(*confidences(labels, probabilities, None), num_bins=num_bins)
    assert found == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("binning", ["width", "count"])
def test_the_error_is_that_of_the_table(binning):
    pair = confidences(*drawn(333, 3), None)
    table = reliability_table(*pair, num_bins=7, binning=binning)
    assert sum(each.num_cases for each in table) == 333
    gap = sum(each.num_cases * abs(each.confidence - each.accuracy) for each in table) / 333
    assert expected_calibration_error(*pair, num_bins=7, binning=binning) == pytest.approx(gap)


def test_bins_of_equal_count_hold_as_many_cases_each():
    confidence = np.random.default_rng(0).beta(20, 2, size=100)  # most are near 1
    table = reliability_table(confidence, confidence > 0.9, num_bins=10, binning="count")
    assert [each.num_cases for each in table] == [10] * 10
    assert (table[0].low, table[-1].high) == (confidence.min(), confidence.max())
    assert len(reliability_table(confidence, confidence > 0.9, num_bins=10)) < 10


def test_bins_of_equal_count_keep_equal_confidences_together():
    confidence = np.array([0.2, 0.9, 0.9, 0.9, 0.9, 0.9])
    outcome = np.array([False, True, False, True, False, True])
    table = reliability_table(confidence, outcome, num_bins=3, binning="count")
    assert [(each.num_cases, each.accuracy) for each in table] == [(6, 0.5)]
    again = np.random.default_rng(0).permutation(6)
    for binning in ("width", "count"):
        shuffled = expected_calibration_error(confidence[again], outcome[again], 3, binning)
        assert shuffled == pytest.approx(expected_calibration_error(confidence, outcome, 3, binning))


def test_fewer_cases_than_bins_of_equal_count_have_a_bin_each():
    table = reliability_table(np.array([0.9, 0.2, 0.4]), np.array([True, False, True]), num_bins=10, binning="count")
    assert [(each.low, each.high, each.accuracy) for each in table] == [(0.2, 0.2, 0), (0.2, 0.4, 1), (0.4, 0.9, 1)]


def test_confidences_of_0_and_1_are_in_the_outer_bins():
    table = reliability_table(np.array([0.0, 1.0]), np.array([False, True]), num_bins=4)
    assert [(each.low, each.high, each.num_cases) for each in table] == [(0, 0.25, 1), (0.75, 1, 1)]
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0


def test_probabilities_that_are_frequencies_are_calibrated():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(size=200_000)
    right = generator.uniform(size=200_000) < confidence
    assert expected_calibration_error(confidence, right) < 0.005  # of chance alone
    assert expected_calibration_error(confidence, right) < expected_calibration_error(confidence**2, right) / 20


def test_brier_score_of_two_cases_by_hand():
    labels, probabilities = np.array([0, 1]), np.array([[0.7, 0.3], [0.4, 0.6]])
    assert brier_score(labels, probabilities, positive=1) == pytest.approx((0.3**2 + 0.4**2) / 2)
    assert brier_score(labels, probabilities, positive=None) == pytest.approx(0.3**2 + 0.4**2)
    assert probabilities.tolist() == [[0.7, 0.3], [0.4, 0.6]]  # the argument is left as it was


def test_no_bin_is_refused():
    with pytest.raises(ValueError, match="0 bins"):
        expected_calibration_error(np.array([0.5]), np.array([True]), num_bins=0)
