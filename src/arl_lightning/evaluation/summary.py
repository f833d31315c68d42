"""Several trainings of one run in one table: seeds, folds, and shares of the labels.

S seeds, K folds.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from arl_lightning.errors import UserError
from arl_lightning.evaluation.bootstrap import Statistic, bootstrap_interval
from arl_lightning.evaluation.files import plain
from arl_lightning.evaluation.predictions import Predictions, aligned_to
from arl_lightning.evaluation.results import BIASED
from arl_lightning.evaluation.runs import Member, Scored, align_table, by_seed, by_share, pool_folds
from arl_lightning.evaluation.schema import Estimate, Kind, estimate
from arl_lightning.evaluation.wording import grouping_sentence


class Spread(TypedDict):
    """A metric over seeds.

    Attributes:
        mean, std, min, max: Over the seeds, each with its folds pooled; std with S - 1, None for one seed.
        low, high: Bootstrap interval over patients of the mean over the seeds; None where seeds are tested on
            different images.
        over_folds: Mean and std over all single folds; None without folds.
    """

    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    low: float | None
    high: float | None
    over_folds: dict[str, float | None] | None


class Share(TypedDict):
    """What was measured with one share of the labels."""

    fraction: float
    n_train: int | None
    num_images: int
    seeds: list[int | None]
    num_folds: int | None
    grouping: str
    metrics: dict[str, Spread]


class Summary(TypedDict):
    """All of `summary.json`."""

    kind: Kind
    task: str
    protocol: str
    checkpoint: dict[str, str | None]
    split_hash: list[str]
    level: float
    num_resamples: int
    shares: list[Share]


class Curve(TypedDict):
    """A metric against the share of the labels, for the figure: one value for each share."""

    fraction: list[float]
    n_train: list[int | None]
    mean: list[float | None]
    std: list[float | None]
    num_seeds: list[int]


def summarize(
    members: Sequence[Member],
    metrics: Sequence[str] | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Summary:
    """Return means and spreads over seeds, with folds pooled, for each share of the labels; plain JSON.

    Args:
        members: The trainings of one run, see `runs.find_members`.
        metrics: Those wanted; by default those that the trainings kept.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.
        level: Of the intervals.
    """
    first = members[0].results
    names = list(metrics or first["metrics"])
    found: Summary = {
        "kind": first["kind"],
        "task": first["task"],
        "protocol": first["protocol"],
        "checkpoint": first["checkpoint"],
        "split_hash": sorted({each.results["split_hash"] for each in members}),
        "level": level,
        "num_resamples": num_resamples,
        "shares": [
            _share(fraction, group, names, num_resamples, seed, level) for fraction, group in by_share(members).items()
        ],
    }
    return plain(found)


def few_label_curve(summary: Summary, metric: str) -> Curve:
    """Return a metric against the share of the labels.

    Raises:
        UserError: If the run has no such metric.
    """
    shares = summary["shares"]
    if metric not in shares[0]["metrics"]:
        raise UserError(f"metric {metric}: choose from {', '.join(shares[0]['metrics'])}")
    return {
        "fraction": [each["fraction"] for each in shares],
        "n_train": [each["n_train"] for each in shares],
        "mean": [each["metrics"][metric]["mean"] for each in shares],
        "std": [each["metrics"][metric]["std"] for each in shares],
        "num_seeds": [len(each["seeds"]) for each in shares],
    }


def _share(
    fraction: float, members: Sequence[Member], names: Sequence[str], num_resamples: int, seed: int, level: float
) -> Share:
    seeds = by_seed(members)
    scored = [pool_folds(group) for group in seeds.values()]
    first = scored[0]
    if unknown := [name for name in names if name not in first.names]:
        raise UserError(f"metric {unknown[0]}: choose from {', '.join(first.names)}")
    values = [each.statistic(names)(np.arange(len(each.test))) for each in scored]
    groups = first.test.groups()
    together = _mean_statistic(scored, names)
    intervals = {} if together is None else bootstrap_interval(together, groups, num_resamples, seed, level)
    trained = [each.results["n"].get("train") for each in members]
    has_folds = members[0].results["fold"] is not None
    return {
        "fraction": fraction,
        "n_train": None if None in trained else round(float(np.mean([each for each in trained if each is not None]))),
        "num_images": first.num_images,
        "seeds": list(seeds),
        "num_folds": len(members) // len(seeds) if has_folds else None,
        "grouping": grouping_sentence(first.test.grouped_by, len(np.unique(groups))),
        "metrics": {
            name: _spread(
                [each[name] for each in values],
                estimate(intervals[name], name not in BIASED) if name in intervals else None,
                [each.results["metrics"][name]["value"] for each in members if name in each.results["metrics"]]
                if has_folds
                else None,
            )
            for name in names
        },
    }


def _spread(values: Sequence[float], interval: Estimate | None, folds: Sequence[float | None] | None) -> Spread:
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
        "low": None if interval is None else interval["low"],
        "high": None if interval is None else interval["high"],
        "over_folds": None if folds is None else _over_folds([value for value in folds if value is not None]),
    }


def _over_folds(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "mean": float(np.mean(values)) if values else None,
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def _mean_statistic(seeds: Sequence[Scored], names: Sequence[str]) -> Statistic | None:
    """Return the mean over seeds of each metric on the same images; None where seeds have different ones."""
    try:
        statistics = [_same_order(seeds[0], each).statistic(names) for each in seeds]
    except UserError:
        return None

    def statistic(places: np.ndarray) -> dict[str, float]:
        found = [each(places) for each in statistics]
        return {name: float(np.mean([each[name] for each in found])) for name in names}

    return statistic


def _same_order(first: Scored, other: Scored) -> Scored:
    if isinstance(first.test, Predictions) and isinstance(other.test, Predictions):
        return Scored(aligned_to(first.test, other.test), other.validation)
    if not isinstance(first.test, Predictions) and not isinstance(other.test, Predictions):
        return Scored(align_table(first.test, other.test))
    raise UserError("masks and classes cannot be summarized together")
