"""Confidence intervals and paired differences by resampling whole patients.

N cases, G groups. Groups are drawn with replacement and bring all their cases: images of one patient are alike, and
resampling them singly would make intervals too narrow (Efron & Tibshirani 1993; Field & Welsh 2007 for clusters).
Groups are patients, or images where no patient is known: `num_groups` then equals the number of images.

Draws are not stratified by class. Which patients a test set holds is chance, their classes included; and a patient may
have images of several classes. Resamples in which a metric is undefined, as AUROC is without a positive case, are left
out of that metric, and `num_valid` counts the others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Statistic = Callable[[np.ndarray], dict[str, float]]
"""From places (M,) of cases, with repetitions, to named values; a value that is undefined is nan."""


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval.

    Attributes:
        value: Of all cases.
        low, high: Ends of the interval; nan where fewer than two groups or no valid resample are there.
        level: Its nominal coverage, such as 0.95.
        num_groups: Groups that were drawn from.
        num_valid: Resamples in which the value is defined.
    """

    value: float
    low: float
    high: float
    level: float
    num_groups: int
    num_valid: int


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two methods on the same cases.

    Attributes:
        value_a, value_b: Of all cases.
        difference: a - b.
        low, high: Percentile interval of the difference.
        p: Two-sided achieved significance level of no difference.
        level: Nominal coverage of the interval.
        num_groups: Groups that were drawn from.
        num_valid: Resamples in which both values are defined.
    """

    value_a: float
    value_b: float
    difference: float
    low: float
    high: float
    p: float
    level: float
    num_groups: int
    num_valid: int


def bootstrap_interval(
    statistic: Statistic, groups: np.ndarray, num_resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Return each value's percentile interval over resampled groups (Efron & Tibshirani 1993, chapter 13).

    Args:
        statistic: From the places of cases to named values.
        groups: (N,) names or numbers; the draw depends on their sorted order, not on the order of the cases.
        num_resamples: How many.
        seed: Of the draws.
        level: Nominal coverage.

    Raises:
        ValueError: If there are no cases, no resamples, or the level is not between 0 and 1.
    """
    value = statistic(np.arange(len(groups)))
    num_groups, resampled = _resampled(statistic, list(value), groups, num_resamples, seed, level)
    return {
        name: Interval(value[name], *_percentiles(drawn, num_groups, level), level, num_groups, len(drawn))
        for name, drawn in resampled.items()
    }


def paired_bootstrap(
    statistic_a: Statistic,
    statistic_b: Statistic,
    groups: np.ndarray,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, PairedDifference]:
    """Compare two methods on the same resamples, for each value that both have.

    The p-value inverts the percentile interval: with k the smaller of the numbers of resampled differences on either
    side of zero (those at zero count on both), p = 2 (k + 1) / (n + 1), at most 1 and never 0 (Efron & Tibshirani 1993,
    chapters 15 and 16; Davison & Hinkley 1997 for the ones). It is below 0.05 where the 95% interval leaves out zero,
    but for rounding.

    Args:
        statistic_a: Of the first method.
        statistic_b: Of the second one, for the same places.
        groups: (N,), as in `bootstrap_interval`.
        num_resamples: How many.
        seed: Of the draws.
        level: Nominal coverage.

    Raises:
        ValueError: As `bootstrap_interval`.
    """
    everything = np.arange(len(groups))
    value_a, value_b = statistic_a(everything), statistic_b(everything)
    names = [name for name in value_a if name in value_b]

    def difference(places: np.ndarray) -> dict[str, float]:
        a, b = statistic_a(places), statistic_b(places)
        return {name: a[name] - b[name] for name in names}

    num_groups, resampled = _resampled(difference, names, groups, num_resamples, seed, level)
    return {
        name: PairedDifference(
            value_a[name],
            value_b[name],
            value_a[name] - value_b[name],
            *_percentiles(drawn, num_groups, level),
            _significance(drawn, num_groups),
            level,
            num_groups,
            len(drawn),
        )
        for name, drawn in resampled.items()
    }


def resamples(groups: np.ndarray, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the places of the cases of as many drawn groups as there are, with repetitions.

    Args:
        groups: (N,) names or numbers.
        num_resamples: How many.
        seed: Of the draws.
    """
    _, group_of_case, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    by_group = group_of_case.argsort(kind="stable")  # places, those of a group together
    starts = np.cumsum(sizes) - sizes
    generator = np.random.default_rng(seed)
    for _ in range(num_resamples):
        drawn = generator.integers(len(sizes), size=len(sizes))
        lengths = sizes[drawn]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        yield by_group[np.repeat(starts[drawn], lengths) + within]


def _resampled(
    statistic: Statistic, names: list[str], groups: np.ndarray, num_resamples: int, seed: int, level: float
) -> tuple[int, dict[str, np.ndarray]]:
    """Return the number of groups, and each value's defined resamples."""
    if not len(groups) or num_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"{len(groups)} cases, {num_resamples} resamples, level {level}: none may be 0, or level 1")
    values = np.empty((num_resamples, len(names)))
    for row, places in zip(values, resamples(groups, num_resamples, seed), strict=True):
        found = statistic(places)
        row[:] = [found[name] for name in names]
    valid = {name: column[~np.isnan(column)] for name, column in zip(names, values.T, strict=True)}
    return len(np.unique(groups)), valid


def _percentiles(drawn: np.ndarray, num_groups: int, level: float) -> tuple[float, float]:
    if num_groups < 2 or not len(drawn):
        return np.nan, np.nan
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _significance(drawn: np.ndarray, num_groups: int) -> float:
    if num_groups < 2 or not len(drawn):
        return np.nan
    fewer = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    return min(1.0, 2 * (fewer + 1) / (len(drawn) + 1))
