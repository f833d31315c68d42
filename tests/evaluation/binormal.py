"""Made predictions whose true AUROC is known, and which are calibrated.

Scores of the negative class are N(0, 1), of the positive one N(d, 1): the AUROC of the population is Phi(d / sqrt 2).
"""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np

from arl_lightning.evaluation.predictions import Part, Predictions


def separation(auroc: float) -> float:
    """Return d for an AUROC of the population."""
    return sqrt(2) * NormalDist().inv_cdf(auroc)


def binormal(
    auroc: float = 0.85,
    num_positive: int = 40,
    num_negative: int = 60,
    seed: int = 0,
    noise: float = 0.0,
    noise_seed: int = 0,
    part: Part = "test",
    num_patients: int | None = None,
    num_videos: int | None = None,
    fold: int | None = None,
    run_seed: int | None = None,
) -> Predictions:
    """Draw benign and malignant cases; `seed` draws the cases and `noise` what a worse model adds to their scores."""
    labels = np.repeat([1, 0], [num_positive, num_negative])
    draw, own = np.random.default_rng(seed), np.random.default_rng(noise_seed)
    d, odds = separation(auroc), np.log(num_positive / num_negative)
    scores = draw.normal(labels * d) + noise * own.normal(size=len(labels))
    positive = 1 / (1 + np.exp(-(d * (scores - d / 2) + odds)))  # Bayes' rule, so calibrated without noise
    number = len(labels)
    return Predictions(
        [f"{part}{seed}/image ({place}).png" for place in range(number)],
        _names("p", number, num_patients),
        _names("clip", number, num_videos),
        labels,
        np.stack([1 - positive, positive], axis=1),
        ("benign", "malignant"),
        1,
        part,
        None if fold is None else np.full(number, fold),
        run_seed,
    )


def several_classes(
    classes: Sequence[str], num_each: int = 30, distance: float = 2.0, seed: int = 0, part: Part = "test"
) -> Predictions:
    """Draw cases of several classes, one coordinate for each, calibrated likewise."""
    labels = np.repeat(np.arange(len(classes)), num_each)
    scores = np.random.default_rng(seed).normal(distance * np.eye(len(classes))[labels])
    odds = np.exp(distance * scores)
    return Predictions(
        [f"{part}{seed}/image ({place}).png" for place in range(len(labels))],
        [None] * len(labels),
        [None] * len(labels),
        labels,
        odds / odds.sum(axis=1, keepdims=True),
        tuple(classes),
        None,
        part,
    )


def _names(prefix: str, number: int, num_names: int | None) -> list[str | None]:
    """Deal consecutive cases to patients or clips."""
    return [None if num_names is None else f"{prefix}{place * num_names // number}" for place in range(number)]
