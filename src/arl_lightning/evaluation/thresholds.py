"""Thresholds on the probability of the positive class, chosen on validation cases and then kept for the test.

A threshold chosen on the cases that are reported on flatters its method: give validation labels and scores only.
Cases whose score is at least the threshold are positive. Thresholds lie midway between neighbouring scores, so that
none depends on the last digit of a score; the one at which every case is positive is the lowest score.

N cases, T thresholds, one below each distinct score.
"""

import numpy as np

from arl_lightning.errors import UserError


def youden_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the threshold of the greatest sensitivity + specificity - 1 (Youden 1950).

    Of equally good ones it is the lowest, which misses the fewest positive cases.

    Args:
        labels: (N,) true for positive.
        scores: (N,) probability of positive.

    Raises:
        UserError: If cases of one kind are missing, or a score is not a number.
    """
    thresholds, num_true, num_false = _operating_points(labels, scores)
    index = num_true * num_false[0] - num_false * num_true[0]  # Youden's times both totals: ties are exact in integers
    if not num_true[0] or not num_false[0]:
        kind = "negative" if num_true[0] else "positive"
        raise UserError(
            f"validation: no {kind} case among {len(scores):,}, so no threshold can be chosen; raise split.val"
        )
    return float(thresholds[index.argmax()])  # the first of equals


def threshold_at_sensitivity(labels: np.ndarray, scores: np.ndarray, sensitivity: float) -> float:
    """Return the highest threshold that finds at least a share of the positive cases.

    Args:
        labels: (N,) true for positive.
        scores: (N,) probability of positive.
        sensitivity: The share, above 0 and at most 1.

    Raises:
        UserError: If there is no positive case, a score is not a number, or the share is out of range.
    """
    if not 0 < sensitivity <= 1:
        raise UserError(f"sensitivity {sensitivity:g}: must be above 0 and at most 1")
    thresholds, num_true, _ = _operating_points(labels, scores)
    if not num_true[0]:
        raise UserError(
            f"validation: no positive case among {len(scores):,}, so no threshold can be chosen; raise split.val"
        )
    enough = num_true >= sensitivity * num_true[0] - 1e-9  # 0.07 * 100 is above 7
    return float(thresholds[enough][-1])


def _operating_points(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ascending thresholds (T,), and how many true and false positives (T,) each has."""
    labels, scores = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise UserError(
            f"validation: {np.count_nonzero(~np.isfinite(scores)):,} of {len(scores):,} scores are not numbers"
        )
    distinct, place = np.unique(scores, return_inverse=True)
    of_positive = np.bincount(place[labels], minlength=len(distinct))
    of_negative = np.bincount(place[~labels], minlength=len(distinct))
    thresholds = np.concatenate([distinct[:1], _between(distinct)])
    return thresholds, of_positive[::-1].cumsum()[::-1], of_negative[::-1].cumsum()[::-1]


def _between(distinct: np.ndarray) -> np.ndarray:
    """Return (T - 1,) midpoints; the upper of two scores where no number lies between them."""
    middle = distinct[:-1] + np.diff(distinct) / 2
    return np.where(middle > distinct[:-1], middle, distinct[1:])
