"""Metrics of a classifier from its probabilities, quick enough to be taken of thousands of resamples.

N cases, C classes. A metric that a sample leaves undefined, such as AUROC where it has one class only, is nan.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from arl_lightning.errors import UserError
from arl_lightning.evaluation.calibration import brier_score, confidences, expected_calibration_error

NUM_BEST = 3  # of top3

METRICS = (
    "accuracy",
    "auroc",
    "sensitivity",
    "specificity",
    "average_precision",
    "top1",
    "top3",
    "macro_f1",
    "balanced_accuracy",
    "ece",
    "brier",
)
_BINARY = ("sensitivity", "specificity", "average_precision")


def metric_names(num_classes: int, positive: int | None) -> tuple[str, ...]:
    """Return the metrics that a task has, in the order of `METRICS`.

    Sensitivity, specificity and average precision need a positive class; top3 needs more than three classes.
    """
    left_out = set() if positive is not None else set(_BINARY)
    left_out |= set() if num_classes > NUM_BEST else {"top3"}
    return tuple(name for name in METRICS if name not in left_out)


def classification_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    positive: int | None,
    threshold: float | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return the metrics of one sample.

    accuracy and top1 are one number. auroc is that of the positive class, else the mean of each class against the rest
    over the classes that the sample has. macro_f1 is the mean over the classes that occur among labels or predictions,
    balanced_accuracy the mean sensitivity over the classes among the labels. ece and brier: see `calibration`.

    Args:
        labels: (N,) classes, from 0 on.
        probabilities: (N, C).
        positive: The class that sensitivity and AUROC are about, of two; None treats all classes alike.
        threshold: Cases are positive whose probability of it is at least this; without it the likeliest class is
            predicted. Chosen on validation cases, see `thresholds`.
        names: Those wanted; all that the task has by default.

    Raises:
        UserError: If a probability is not a number.
        ValueError: If shapes, labels or names do not fit.
    """
    sample = _Sample(labels, probabilities, positive, threshold)
    known = metric_names(sample.probabilities.shape[1], positive)
    wanted = known if names is None else names
    if unknown := sorted(set(wanted) - set(known)):
        raise ValueError(f"metrics {', '.join(unknown)}: not of this task; it has {', '.join(known)}")
    return {name: float(_FUNCTIONS[name](sample)) for name in wanted}


def predicted_classes(
    probabilities: np.ndarray, positive: int | None = None, threshold: float | None = None
) -> np.ndarray:
    """Return (N,) classes: the likeliest (the first of equals), or by a threshold on the positive one of two."""
    if threshold is None:
        return probabilities.argmax(axis=1)
    if positive is None:
        raise ValueError("a threshold needs a positive class")
    return np.where(probabilities[:, positive] >= threshold, positive, 1 - positive)


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return (C, C) counts, the true class down, the predicted one across."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def auroc(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve: the share of pairs whose positive case scores higher, ties counting half.

    By the rank sum (Mann & Whitney 1947; Hanley & McNeil 1982); nan where all cases are of one kind.

    Args:
        is_positive: (N,) bool.
        scores: (N,), higher for positive.
    """
    num_positive = int(np.count_nonzero(is_positive))
    num_negative = len(is_positive) - num_positive
    if not num_positive or not num_negative:
        return np.nan
    rank_sum = midranks(scores)[is_positive].sum()
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def midranks(scores: np.ndarray) -> np.ndarray:
    """Return (N,) ranks from 1 on; equal scores share the mean of theirs."""
    order = scores.argsort()
    ends = _ends_of_ties(scores[order])
    starts = np.concatenate([[0], ends[:-1] + 1])
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat((starts + ends) / 2 + 1, ends - starts + 1)
    return ranks


def average_precision(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Return the precision averaged over the steps of recall, without interpolation; nan where all are of one kind."""
    if is_positive.all() or not is_positive.any():
        return np.nan
    order = scores.argsort()[::-1]
    ends = _ends_of_ties(scores[order])
    num_true = np.cumsum(is_positive[order])[ends]
    return (np.diff(num_true, prepend=0) * num_true / (ends + 1)).sum() / num_true[-1]


def _ends_of_ties(ordered: np.ndarray) -> np.ndarray:
    """Return the last place of each run of equal values."""
    return np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)


class _Sample:
    """Labels and probabilities, with what several metrics share."""

    def __init__(
        self, labels: np.ndarray, probabilities: np.ndarray, positive: int | None, threshold: float | None
    ) -> None:
        self.labels, self.probabilities = np.asarray(labels), np.asarray(probabilities)
        self.positive, self.threshold = positive, threshold
        if self.probabilities.ndim != 2 or not len(self.labels) or len(self.labels) != len(self.probabilities):
            raise ValueError(f"labels {self.labels.shape}, probabilities {self.probabilities.shape}: want (N,), (N, C)")
        num_classes = self.probabilities.shape[1]
        if positive is not None and (num_classes != 2 or positive not in (0, 1)):
            raise ValueError(f"positive {positive}: needs two classes, not {num_classes}")
        if self.labels.min() < 0 or self.labels.max() >= num_classes:
            raise ValueError(f"labels {self.labels.min()} to {self.labels.max()}: there are {num_classes} classes")
        if not np.isfinite(self.probabilities).all():
            damaged = np.count_nonzero(~np.isfinite(self.probabilities).all(axis=1))
            raise UserError(
                f"probabilities: not a number in {damaged:,} of {len(self.labels):,} cases; the training diverged, "
                "lower its learning rate"
            )

    @cached_property
    def is_positive(self) -> np.ndarray:
        return self.labels == self.positive

    @property
    def scores(self) -> np.ndarray:
        return self.probabilities[:, self.positive]

    @cached_property
    def confusion(self) -> np.ndarray:
        predicted = predicted_classes(self.probabilities, self.positive, self.threshold)
        return confusion_counts(self.labels, predicted, self.probabilities.shape[1])

    @cached_property
    def sensitivities(self) -> np.ndarray:
        """(C,) share of each class that is predicted as such; nan for a class without a case."""
        sizes = self.confusion.sum(axis=1)
        return np.divide(self.confusion.diagonal(), sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)


def _accuracy(sample: _Sample) -> float:
    return np.trace(sample.confusion) / len(sample.labels)


def _auroc(sample: _Sample) -> float:
    if sample.positive is not None:
        return auroc(sample.is_positive, sample.scores)
    columns = np.ascontiguousarray(sample.probabilities.T)  # (N, C) -> (C, N)
    return float(np.mean([auroc(sample.labels == each, columns[each]) for each in np.unique(sample.labels)]))


def _sensitivity(sample: _Sample, of_positive: bool = True) -> float:
    wanted = (np.arange(2) == sample.positive) == of_positive
    return sample.sensitivities[wanted].item()


def _top3(sample: _Sample) -> float:
    """Equals stand in the order of the classes, as in `argmax`."""
    own = np.take_along_axis(sample.probabilities, sample.labels[:, None], axis=1)  # (N, 1)
    earlier = np.arange(sample.probabilities.shape[1]) < sample.labels[:, None]
    ahead = (sample.probabilities > own) | ((sample.probabilities == own) & earlier)
    return float(np.mean(ahead.sum(axis=1) < NUM_BEST))


def _macro_f1(sample: _Sample) -> float:
    occurring = sample.confusion.sum(axis=0) + sample.confusion.sum(axis=1)  # 2 TP + FP + FN
    has = occurring > 0
    return float(np.mean(2 * sample.confusion.diagonal()[has] / occurring[has]))


def _balanced_accuracy(sample: _Sample) -> float:
    defined = sample.sensitivities[~np.isnan(sample.sensitivities)]
    return float(defined.mean()) if len(defined) > 1 else np.nan


_FUNCTIONS: dict[str, Callable[[_Sample], float]] = {
    "accuracy": _accuracy,
    "auroc": _auroc,
    "sensitivity": _sensitivity,
    "specificity": lambda sample: _sensitivity(sample, of_positive=False),
    "average_precision": lambda sample: average_precision(sample.is_positive, sample.scores),
    "top1": _accuracy,
    "top3": _top3,
    "macro_f1": _macro_f1,
    "balanced_accuracy": _balanced_accuracy,
    "ece": lambda sample: expected_calibration_error(
        *confidences(sample.labels, sample.probabilities, sample.positive)
    ),
    "brier": lambda sample: brier_score(sample.labels, sample.probabilities, sample.positive),
}
