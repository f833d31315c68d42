"""Variance of the AUROC, its interval, and the test of two AUROCs on the same cases, without resampling.

DeLong, DeLong & Clarke-Pearson 1988, by ranks as in Sun & Xu 2014; for several images of a patient Obuchowski 1997.

M positive and N negative cases, G groups, S scores. The placement of a positive case is the share of negative cases
that score lower, of a negative one the share of positive cases that score higher, ties counting half; the mean of
either is the AUROC.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from arl_lightning.evaluation.metrics import midranks

Method = Literal["normal", "logit"]


@dataclass(frozen=True)
class DeLong:
    """An AUROC with its interval.

    Attributes:
        auroc: Of all cases; nan where they are of one kind.
        variance: Of the AUROC; nan where there are fewer than two groups of a kind.
        low, high: Ends of the interval; nan at an AUROC of 0 or 1, whose estimated variance of 0 says nothing.
        level: Nominal coverage.
        num_groups: Cases, or groups where they were given, that were taken as independent.
    """

    auroc: float
    variance: float
    low: float
    high: float
    level: float
    num_groups: int


@dataclass(frozen=True)
class DeLongTest:
    """Two AUROCs of the same cases.

    Attributes:
        auroc_a, auroc_b: Of all cases.
        difference: a - b.
        low, high: Interval of the difference.
        z: Difference by its standard error.
        p: Two-sided; 1 where the scores order all cases alike.
        covariance: (2, 2) of the AUROCs.
        level: Nominal coverage of the interval.
        num_groups: As in `DeLong`.
    """

    auroc_a: float
    auroc_b: float
    difference: float
    low: float
    high: float
    z: float
    p: float
    covariance: np.ndarray
    level: float
    num_groups: int


def delong(
    labels: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    method: Method = "normal",
) -> DeLong:
    """Return the AUROC with its variance and interval.

    Without groups the cases count as independent. Where a patient has several images they are not, and the interval
    comes out too narrow: give the patients as groups.

    Args:
        labels: (M + N,) true for positive.
        scores: (M + N,) higher for positive.
        groups: (M + N,) names or numbers of patients; a patient may have cases of both kinds.
        level: Nominal coverage.
        method: normal: AUROC +- z standard errors, cut at 0 and 1. logit: the same on the scale log(A / (1 - A)), which
            stays inside (Pepe 2003) and is truer where AUROCs are high and cases few: with 40 and 60 cases at an AUROC
            of 0.86 it held the truth in 95.1% of 5,000 simulated sets, normal in 92.8%.
    """
    clusters = _Clusters(labels, groups)
    placements = _placements(clusters, np.asarray(scores)[None])  # S = 1
    area, variance = float(placements.areas[0]), float(clusters.covariance(placements)[0, 0])
    return DeLong(area, variance, *_interval(area, variance, level, method), level, clusters.num_groups)


def delong_test(
    labels: np.ndarray,
    scores_a: np.ndarray,
    scores_b: np.ndarray,
    groups: np.ndarray | None = None,
    level: float = 0.95,
) -> DeLongTest:
    """Compare two AUROCs of the same cases.

    Args:
        labels: (M + N,) true for positive.
        scores_a: (M + N,) of the first method.
        scores_b: (M + N,) of the second one.
        groups: As in `delong`.
        level: Nominal coverage of the interval of the difference.
    """
    clusters = _Clusters(labels, groups)
    placements = _placements(clusters, np.stack([scores_a, scores_b]))  # S = 2
    area_a, area_b = map(float, placements.areas)
    difference = area_a - area_b
    # The variance of the differences of placements, rather than the sum of three terms, is exactly 0 for equal orders.
    error = math.sqrt(clusters.covariance(placements.contrast())[0, 0])
    z = difference / error if error else (0.0 if difference == 0 else math.nan)
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    return DeLongTest(
        auroc_a=area_a,
        auroc_b=area_b,
        difference=difference,
        low=difference - half,
        high=difference + half,
        z=z,
        p=math.erfc(abs(z) / math.sqrt(2)),
        covariance=clusters.covariance(placements),
        level=level,
        num_groups=clusters.num_groups,
    )


@dataclass(frozen=True)
class _Placements:
    """(S, M) of the positive cases, (S, N) of the negative ones, (S,) AUROCs."""

    positive: np.ndarray
    negative: np.ndarray
    areas: np.ndarray

    def contrast(self) -> "_Placements":
        """Return those of the difference of two scores, as of one."""
        return _Placements(*(-np.diff(each, axis=0) for each in (self.positive, self.negative, self.areas)))


class _Clusters:
    """Which cases are positive, and which group each belongs to."""

    def __init__(self, labels: np.ndarray, groups: np.ndarray | None) -> None:
        self.is_positive = np.asarray(labels, dtype=bool)
        names = np.arange(len(self.is_positive)) if groups is None else np.asarray(groups)
        if len(names) != len(self.is_positive):
            raise ValueError(f"{len(names)} groups for {len(self.is_positive)} cases")
        found, self.group_of_case = np.unique(names, return_inverse=True)
        self.num_groups = len(found)

    def covariance(self, placements: _Placements) -> np.ndarray:
        """Return the (S, S) covariance of AUROCs, Obuchowski's; DeLong's where every group is one case.

        var = S10 / M + S01 / N + (S11 + S11') / (M N), the S from sums over groups of what exceeds the AUROC. Groups
        without a case of a kind add 0 to the sums of that kind, and are not counted among its groups.
        """
        positive, num_positive_groups = self._sums(placements.positive, placements.areas, self.is_positive)
        negative, num_negative_groups = self._sums(placements.negative, placements.areas, ~self.is_positive)
        if num_positive_groups < 2 or num_negative_groups < 2:
            return np.full((len(positive), len(positive)), np.nan)
        num_positive, num_negative = placements.positive.shape[1], placements.negative.shape[1]
        both = positive @ negative.T * _unbiased(self.num_groups) / (num_positive * num_negative)
        return (
            positive @ positive.T * _unbiased(num_positive_groups) / num_positive**2
            + negative @ negative.T * _unbiased(num_negative_groups) / num_negative**2
            + both
            + both.T
        )

    def _sums(self, placements: np.ndarray, areas: np.ndarray, of_kind: np.ndarray) -> tuple[np.ndarray, int]:
        """Return (S, G) sums over each group's cases of one kind, and the number of groups that have some."""
        groups = self.group_of_case[of_kind]
        excess = placements - areas[:, None]
        sums = [np.bincount(groups, weights=row, minlength=self.num_groups) for row in excess]
        return np.stack(sums), len(np.unique(groups))


def _unbiased(number: int) -> float:
    return number / (number - 1)


def _placements(clusters: _Clusters, scores: np.ndarray) -> _Placements:
    """Return the placements under each of (S, M + N) scores.

    A case's rank among all, less its rank among its own kind, counts those of the other kind that lie below.
    """
    is_positive = clusters.is_positive
    if scores.shape[1] != len(is_positive) or not np.isfinite(scores).all():
        raise ValueError(f"{scores.shape[1]} scores for {len(is_positive)} cases: one for each, and all finite")
    num_positive = np.count_nonzero(is_positive)
    num_negative = len(is_positive) - num_positive
    if not num_positive or not num_negative:
        empty = np.full(len(scores), np.nan)
        return _Placements(scores[:, is_positive] * np.nan, scores[:, ~is_positive] * np.nan, empty)
    ranks = np.stack([midranks(row) for row in scores])
    positive_ranks = np.stack([midranks(row[is_positive]) for row in scores])
    negative_ranks = np.stack([midranks(row[~is_positive]) for row in scores])
    positive = (ranks[:, is_positive] - positive_ranks) / num_negative  # (S, M)
    negative = 1 - (ranks[:, ~is_positive] - negative_ranks) / num_positive  # (S, N)
    return _Placements(positive, negative, positive.mean(axis=1))


def _interval(area: float, variance: float, level: float, method: Method) -> tuple[float, float]:
    if not variance > 0 or not 0 < area < 1:
        return math.nan, math.nan
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    if method == "normal":
        return max(0.0, area - half), min(1.0, area + half)
    centre, half = math.log(area / (1 - area)), half / (area * (1 - area))  # the delta method
    return _logistic(centre - half), _logistic(centre + half)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))
