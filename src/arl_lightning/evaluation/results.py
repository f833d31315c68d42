"""The numbers about one run's test part with their intervals, and the files that a run leaves.

N images, C classes, K folds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from arl_lightning.evaluation.bootstrap import Statistic, bootstrap_interval
from arl_lightning.evaluation.calibration import confidences, expected_calibration_error, reliability_table
from arl_lightning.evaluation.delong import delong
from arl_lightning.evaluation.files import plain, write_json
from arl_lightning.evaluation.metrics import classification_metrics, confusion_counts, metric_names, predicted_classes
from arl_lightning.evaluation.predictions import Predictions
from arl_lightning.evaluation.schema import (
    FILE,
    FORMAT,
    Bin,
    Calibration,
    Estimate,
    Evaluation,
    RunInfo,
    Threshold,
    estimate,
)
from arl_lightning.evaluation.schema import Checkpoint as Checkpoint
from arl_lightning.evaluation.schema import RunResults as RunResults
from arl_lightning.evaluation.schema import read_results as read_results
from arl_lightning.evaluation.tables import FILE as TABLE
from arl_lightning.evaluation.tables import write_parquet
from arl_lightning.evaluation.thresholds import youden_threshold
from arl_lightning.evaluation.wording import grouping_sentence

__all__ = ["Checkpoint", "Evaluation", "RunInfo", "RunResults", "evaluate", "read_results", "write_run"]

FIGURES = "figures"
DECISIONS = ("accuracy", "sensitivity", "specificity", "top1", "macro_f1", "balanced_accuracy")  # count decisions
BIASED = ("ece",)  # whose resamples lie above the value
EVEN = 0.5  # the threshold that the likeliest of two classes amounts to
ARGMAX = "argmax "  # before the names of decisions' metrics that leave the threshold aside


class Cut(NamedTuple):
    """Thresholds of the positive class.

    Attributes:
        of_image: (N,) the threshold of each image, which is its fold's; None for the likeliest class.
        said: What `results.json` says of it; None for more than two classes.
    """

    of_image: np.ndarray | None
    said: Threshold | None


def evaluate(
    test: Predictions,
    validation: Predictions | None = None,
    metrics: Sequence[str] | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Evaluation:
    """Return metrics of the test part with their intervals, as plain JSON.

    Of two classes, decisions are made at the threshold with the highest Youden index on the validation part; with
    folds at each fold's own. Folds are pooled: an AUROC then also ranks images of different models against each other.

    Args:
        test: What was said of the test part; of all folds.
        validation: Of the validation part, likewise; without it the likeliest class is decided for.
        metrics: Those wanted, in this order; all that the task has by default.
        num_resamples: Of the bootstrap over patients.
        seed: Of the bootstrap.
        level: Of the intervals.
    """
    found = _evaluated(test, validation, metrics, num_resamples, seed, level)
    if all(_clips_can_be_pooled(each) for each in (test, validation or test)):
        clips = None if validation is None else validation.per_video()
        found["per_video"] = _evaluated(test.per_video(), clips, metrics, num_resamples, seed, level)
    return plain(found)


def write_run(folder: Path, info: RunInfo, results: Evaluation, predictions: Sequence[Predictions]) -> Path:
    """Write `predictions.parquet`, `figures/`, and `results.json` last, so that it stands for a whole run.

    Args:
        folder: Of the run; made where it is missing.
        info: What the run was.
        results: Of `evaluate`.
        predictions: Of the parts; the test part is drawn.

    Returns:
        The path of `results.json`.
    """
    from arl_lightning.evaluation.drawing import save_png  # Matplotlib takes a second to load
    from arl_lightning.evaluation.figures import draw_run

    write_parquet(folder / TABLE, predictions)
    test = next(each for each in predictions if each.part == "test")
    for name, figure in draw_run(test, results).items():
        save_png(figure, folder / FIGURES / f"{name}.png")
    write_json(folder / FILE, {"format": FORMAT, "kind": "classification", **info.content(), **results})
    return folder / FILE


def statistic_of(predictions: Predictions, of_image: np.ndarray | None, names: Sequence[str]) -> Statistic:
    """Return what the bootstrap resamples: metrics of some images, decisions at the image's own threshold.

    Args:
        predictions: N images.
        of_image: (N,) thresholds, None for the likeliest class; then `argmax <name>` is what that would give.
        names: Of the metrics.
    """
    labels, probabilities, positive = predictions.labels, predictions.probabilities, predictions.positive
    decisions = [name for name in names if name in DECISIONS]

    def statistic(places: np.ndarray) -> dict[str, float]:
        found = classification_metrics(labels[places], probabilities[places], positive, names=names)
        if of_image is None or not decisions:
            return found
        # Folds have thresholds of their own, so decisions go in as certain probabilities.
        decided = certain[places]
        at_threshold = classification_metrics(labels[places], decided, positive, names=decisions)
        return {**found, **at_threshold, **{f"{ARGMAX}{name}": found[name] for name in decisions}}

    certain = np.eye(len(predictions.classes))[decide(predictions, of_image)]
    return statistic


def decide(predictions: Predictions, of_image: np.ndarray | None) -> np.ndarray:
    """Return (N,) predicted classes at thresholds of the positive class, or the likeliest."""
    positive = predictions.positive
    if of_image is None or positive is None:
        return predicted_classes(predictions.probabilities)
    return np.where(predictions.positive_scores() >= of_image, positive, 1 - positive)


def choose_cut(test: Predictions, validation: Predictions | None) -> Cut:
    """Choose thresholds by the Youden index of the validation part, for each fold its own.

    A fold whose validation part lacks a class keeps 0.5.
    """
    if test.positive is None:
        return Cut(None, None)
    if validation is None:
        return Cut(None, {"value": EVEN, "origin": "the likeliest class: there is no validation part"})
    if test.folds is None or validation.folds is None:
        value = _youden(validation)
        if value is None:
            return Cut(None, {"value": EVEN, "origin": "the likeliest class: the validation part has one class only"})
        origin = f"highest Youden index on {len(validation)} validation images"
        return Cut(np.full(len(test), value), {"value": value, "origin": origin})
    chosen = {}
    for fold in np.unique(test.folds):
        own = np.flatnonzero(validation.folds == fold)
        value = _youden(validation.at(own)) if len(own) else None
        chosen[int(fold)] = EVEN if value is None else value
    origin = f"highest Youden index on the validation images of each of {len(chosen)} folds"
    of_image = np.array([chosen[int(fold)] for fold in test.folds])
    return Cut(of_image, {"value": list(chosen.values()), "origin": origin})


def _evaluated(
    test: Predictions,
    validation: Predictions | None,
    metrics: Sequence[str] | None,
    num_resamples: int,
    seed: int,
    level: float,
) -> Evaluation:
    names = list(metrics or metric_names(len(test.classes), test.positive))
    groups, cut = test.groups(), choose_cut(test, validation)
    statistic = statistic_of(test, cut.of_image, names)
    intervals = bootstrap_interval(statistic, groups, num_resamples, seed, level)
    counts = np.bincount(test.labels, minlength=len(test.classes))
    num_groups = len(np.unique(groups))
    return {
        "metrics": {name: estimate(intervals[name], name not in BIASED) for name in names},
        "at_argmax": {
            name.removeprefix(ARGMAX): estimate(each) for name, each in intervals.items() if name.startswith(ARGMAX)
        },
        "level": level,
        "num_resamples": num_resamples,
        "num_images": len(test),
        "num_groups": num_groups,
        "grouped_by": test.grouped_by,
        "grouping": grouping_sentence(test.grouped_by, num_groups),
        "classes": list(test.classes),
        "positive": None if test.positive is None else test.classes[test.positive],
        "class_counts": dict(zip(test.classes, counts.tolist(), strict=True)),
        "threshold": cut.said,
        "confusion": {
            "argmax": _confusion(test, None),
            "threshold": None if cut.of_image is None else _confusion(test, cut.of_image),
        },
        "calibration": _calibration(test, num_resamples, seed, level),
        "delong": _delong(test, level),
        "per_video": None,
    }


def _youden(validation: Predictions) -> float | None:
    is_positive = validation.labels == validation.positive
    if is_positive.all() or not is_positive.any():
        return None
    return float(youden_threshold(is_positive, validation.positive_scores()))


def _confusion(test: Predictions, of_image: np.ndarray | None) -> list[list[int]]:
    return confusion_counts(test.labels, decide(test, of_image), len(test.classes)).tolist()


def _calibration(test: Predictions, num_resamples: int, seed: int, level: float) -> Calibration:
    """Return the calibration error beside what chance alone would show (Broecker & Smith 2007).

    A bootstrap interval would lie above the value: repeated cases fill bins unevenly and raise the error.
    """
    confidence, outcome = confidences(test.labels, test.probabilities, test.positive)
    draw = np.random.default_rng(seed)
    chance = [
        expected_calibration_error(confidence, draw.random(len(confidence)) < confidence) for _ in range(num_resamples)
    ]
    bins: list[Bin] = [
        {"low": each.low, "high": each.high, "confidence": each.confidence, "accuracy": each.accuracy,
         "num_cases": each.num_cases}
        for each in reliability_table(confidence, outcome)
    ]  # fmt: skip
    return {
        "ece": expected_calibration_error(confidence, outcome),
        "expected": np.quantile(chance, [(1 - level) / 2, (1 + level) / 2]).tolist(),
        "bins": bins,
    }


def _delong(test: Predictions, level: float) -> Estimate | None:
    if test.positive is None:
        return None
    found = delong(test.labels == test.positive, test.positive_scores(), test.groups(), level, "logit")
    return {"value": found.auroc, "low": found.low, "high": found.high}


def _clips_can_be_pooled(test: Predictions) -> bool:
    """Return whether some clip has several frames, and all clips have one label and one patient each."""
    clips: dict[str, list[tuple[int, str | None]]] = {}
    for video, label, patient in zip(test.videos, test.labels.tolist(), test.patients, strict=True):
        if video is not None:
            clips.setdefault(video, []).append((label, patient))
    several = any(len(frames) > 1 for frames in clips.values())
    return several and all(len(set(frames)) == 1 for frames in clips.values())
