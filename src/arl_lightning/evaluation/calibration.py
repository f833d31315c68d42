"""How well probabilities agree with frequencies: reliability, expected calibration error, Brier score.

N cases, C classes, B bins. With a positive class the confidence of a case is its probability of that class, and the
outcome whether it is of it; else the confidence is that of the likeliest class, and the outcome whether it is right.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

NUM_BINS = 15  # Guo et al. 2017

Binning = Literal["width", "count"]


@dataclass(frozen=True)
class ReliabilityBin:
    """The cases whose confidence lies in (low, high]; the first bin holds its lower end too.

    Attributes:
        low, high: Its ends.
        confidence: Mean confidence.
        accuracy: Share of cases whose outcome is true: how often a confidence of that height is justified.
        num_cases: How many.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    num_cases: int


def confidences(labels: np.ndarray, probabilities: np.ndarray, positive: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence (N,) and the outcome (N,) bool of each case.

    Args:
        labels: (N,) classes.
        probabilities: (N, C).
        positive: The positive class, or None.
    """
    if positive is not None:
        return probabilities[:, positive], labels == positive
    return probabilities.max(axis=1), labels == probabilities.argmax(axis=1)


def reliability_table(
    confidence: np.ndarray, outcome: np.ndarray, num_bins: int = NUM_BINS, binning: Binning = "width"
) -> list[ReliabilityBin]:
    """Return the bins that hold cases, in ascending order.

    Args:
        confidence: (N,) from 0 to 1.
        outcome: (N,) bool.
        num_bins: At most so many.
        binning: width: equal parts of 0 to 1. count: each about N / B cases (Nguyen & O'Connor 2015), where cases of
            one confidence stay together.
    """
    edges = _edges(confidence, num_bins, binning)
    place = np.searchsorted(edges[1:-1], confidence)  # left: a value equal to an edge lies below it
    return [
        ReliabilityBin(
            low=float(edges[each]),
            high=float(edges[each + 1]),
            confidence=float(confidence[place == each].mean()),
            accuracy=float(outcome[place == each].mean()),
            num_cases=int((place == each).sum()),
        )
        for each in np.unique(place)
    ]


def expected_calibration_error(
    confidence: np.ndarray, outcome: np.ndarray, num_bins: int = NUM_BINS, binning: Binning = "width"
) -> float:
    r"""Return the mean gap between confidence and accuracy: sum_b n_b / N \|acc_b - conf_b\| (Naeini et al. 2015).

    Above zero even for perfect probabilities where bins hold few cases: read it beside the number of cases.

    Args:
        confidence: (N,) from 0 to 1.
        outcome: (N,) bool.
        num_bins: See `reliability_table`.
        binning: Likewise.
    """
    place = np.searchsorted(_edges(confidence, num_bins, binning)[1:-1], confidence)
    gaps = np.bincount(place, weights=confidence - outcome)  # n_b (conf_b - acc_b)
    return float(np.abs(gaps).sum() / len(confidence))


def brier_score(labels: np.ndarray, probabilities: np.ndarray, positive: int | None) -> float:
    """Return the mean squared error of the probabilities (Brier 1950): 0 is perfect.

    Of the positive class alone, from 0 to 1; without one summed over all classes, from 0 to 2, which for two classes
    is twice as much.

    Args:
        labels: (N,) classes.
        probabilities: (N, C).
        positive: The positive class, or None.
    """
    if positive is not None:
        return float(np.mean((probabilities[:, positive] - (labels == positive)) ** 2))
    error = probabilities.astype(np.float64)  # a copy
    error[np.arange(len(labels)), labels] -= 1
    return float(np.mean((error**2).sum(axis=1)))


def _edges(confidence: np.ndarray, num_bins: int, binning: Binning) -> np.ndarray:
    """Return B + 1 ascending edges; between equal ones no case lies."""
    if num_bins < 1:
        raise ValueError(f"{num_bins} bins: at least 1 is needed")
    if binning == "width":
        return np.linspace(0, 1, num_bins + 1)
    last = -(-np.arange(1, num_bins + 1) * len(confidence) // num_bins) - 1  # of each bin, rounded up
    ordered = np.sort(confidence)
    return np.concatenate([ordered[:1], ordered[last]])
