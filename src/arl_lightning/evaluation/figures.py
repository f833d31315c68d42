"""Figures of one run: ROC, precision and recall, reliability, confusion; the spread of overlaps.

N images, C classes, P points of a grid.
"""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arl_lightning.evaluation.bootstrap import resamples
from arl_lightning.evaluation.drawing import (
    COLOURS,
    FONT,
    GREY,
    PALE,
    SIDE,
    colour,
    dashes,
    legend,
    new_figure,
    shown,
    style,
    unit_square,
)
from arl_lightning.evaluation.files import numbered
from arl_lightning.evaluation.metrics import auroc
from arl_lightning.evaluation.overlap_table import OverlapTable
from arl_lightning.evaluation.predictions import Predictions
from arl_lightning.evaluation.schema import Evaluation, SegmentationEvaluation
from arl_lightning.evaluation.wording import interval_text, number_text

BAND_RESAMPLES = 500  # enough for a band that is looked at
GRID = np.linspace(0, 1, 201)
MAX_PERCENT = 8  # classes up to which cells say their row's percentage
CROWDED = 0.35  # prevalence below which the curve ends in the lower corners
DARK = 0.55  # of a row, from where a cell's text is white


def draw_run(test: Predictions, results: Evaluation, seed: int = 0) -> dict[str, Figure]:
    """Return the figures of a classification run by their file names."""
    figures = {"confusion": draw_confusion(results), "reliability": draw_reliability(results)}
    if test.positive is None:
        return {"roc": draw_class_rocs(test), **figures}
    return {
        "roc": draw_roc(test, results, seed),
        "precision_recall": draw_precision_recall(test, results, seed),
        **figures,
    }


def draw_roc(test: Predictions, results: Evaluation, seed: int = 0) -> Figure:
    """Draw the ROC curve with a pointwise bootstrap band and the operating point on the test part."""
    figure = new_figure()
    axis = figure.subplots()
    is_positive, scores = test.labels == test.positive, test.positive_scores()
    _draw_band(axis, test, _sensitivity_on_grid, results["level"], seed)
    false, true = roc_curve(is_positive, scores)
    axis.plot([0, 1], [0, 1], color=PALE, linewidth=1, zorder=1)
    label = f"AUROC {_interval(results, 'auroc')}"
    axis.plot(false, true, color=COLOURS[0], linewidth=1.8, label=label, clip_on=False)
    sensitivity, specificity, said = _operating_point(results)
    axis.plot(1 - specificity, sensitivity, "o", color=COLOURS[1], markersize=7, label=said, clip_on=False, zorder=4)
    style(axis, f"ROC of {shown(str(results['positive']))}, {_sizes(results)}", "1 - specificity", "sensitivity")
    unit_square(axis)
    legend(axis, "lower right")
    return figure


def draw_precision_recall(test: Predictions, results: Evaluation, seed: int = 0) -> Figure:
    """Draw precision by recall with a pointwise bootstrap band, the prevalence and the operating point."""
    figure = new_figure()
    axis = figure.subplots()
    is_positive, scores = test.labels == test.positive, test.positive_scores()
    _draw_band(axis, test, _precision_on_grid, results["level"], seed)
    recall, precision = precision_recall_curve(is_positive, scores)
    label = f"average precision {_interval(results, 'average_precision')}"
    axis.step(recall, precision, where="pre", color=COLOURS[0], linewidth=1.8, label=label, clip_on=False)
    prevalence = float(is_positive.mean())
    axis.axhline(prevalence, color=GREY, linewidth=1, linestyle=":", label=f"prevalence {prevalence:.3f}")
    counts = np.array(results["confusion"]["threshold"] or results["confusion"]["argmax"])
    found, of_class, predicted = (
        int(each[test.positive]) for each in (counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0))
    )
    point = _share(found, of_class), _share(found, predicted)
    axis.plot(*point, "o", color=COLOURS[1], markersize=7, label=_operating_point(results)[2], zorder=4)
    style(axis, f"Precision and recall of {shown(str(results['positive']))}, {_sizes(results)}", "recall", "precision")
    unit_square(axis)
    legend(axis, "lower left" if precision[-1] > CROWDED else "upper right")
    return figure


def draw_class_rocs(test: Predictions) -> Figure:
    """Draw the ROC curve of each class against the rest."""
    figure = new_figure(SIDE + 0.6, SIDE + 0.4 + 0.18 * ((len(test.classes) + 1) // 2))
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=PALE, linewidth=1)
    for place, name in enumerate(test.classes):
        is_own, scores = test.labels == place, test.probabilities[:, place]
        if is_own.any() and not is_own.all():
            label = f"{shown(name)}: {number_text(auroc(is_own, scores))} (n = {int(is_own.sum())})"
            (line,) = axis.plot(*roc_curve(is_own, scores), color=colour(place), linewidth=1.5, label=label)
            line.set_linestyle(dashes(place))
    style(axis, f"ROC of each class against the rest, n = {len(test):,}", "1 - specificity", "sensitivity")
    unit_square(axis)
    figure.legend(
        loc="outside lower center", ncols=2, fontsize=FONT - 1, frameon=False, title="AUROC", title_fontsize=FONT
    )
    return figure


def draw_reliability(results: Evaluation) -> Figure:
    """Draw how often confidences are justified, above how many images have them."""
    figure = new_figure(SIDE, SIDE + 0.8)
    axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    calibration = results["calibration"]
    bins = calibration["bins"]
    confidence, share = ([each[name] for each in bins] for name in ("confidence", "accuracy"))
    counts = np.array([each["num_cases"] for each in bins])
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="calibrated")
    for each in bins:
        axis.plot([each["confidence"]] * 2, [each["confidence"], each["accuracy"]], color=COLOURS[1], linewidth=1.2)
    label = f"ECE {number_text(calibration['ece'])}"
    axis.plot(confidence, share, "-", color=COLOURS[0], linewidth=0.8, alpha=0.5)
    axis.scatter(confidence, share, s=12 + 120 * counts / counts.max(), color=COLOURS[0], label=label, zorder=3)
    expected = [number_text(value, digits=2) for value in calibration["expected"]]
    axis.plot([], [], " ", label=f"if calibrated {expected[0]} to {expected[1]}")
    positive = results["positive"]
    outcome = f"share of {shown(positive)}" if positive else "share that is right"
    style(axis, f"Reliability, n = {results['num_images']:,}", "", outcome)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04))
    legend(axis, "upper left")
    below.bar([(each["low"] + each["high"]) / 2 for each in bins], counts, width=0.9 / 15, color=COLOURS[0])
    for each in bins:
        below.annotate(f"{each['num_cases']:,}", ((each["low"] + each["high"]) / 2, each["num_cases"]), (0, 2),
                       textcoords="offset points", ha="center", fontsize=FONT - 2, color=GREY)  # fmt: skip
    style(
        below, "", f"probability of {shown(positive)}" if positive else "probability of the likeliest class", "images"
    )
    below.set_ylim(0, 1.25 * counts.max())
    return figure


def draw_confusion(results: Evaluation) -> Figure:
    """Draw counts and the percentages of each true class, at the threshold where one was chosen."""
    at_threshold = results["confusion"]["threshold"]
    counts = np.array(at_threshold or results["confusion"]["argmax"])  # (C, C)
    number = len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(SIDE, 0.42 * number + 2)
    figure = new_figure(side, side - 0.3)
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    size = FONT + 3 if number <= 4 else FONT if number <= MAX_PERCENT else FONT - 2
    for row, column in np.ndindex(counts.shape):
        percent = f"\n{share[row, column]:.1%}" if number <= MAX_PERCENT else ""
        ink = "white" if share[row, column] > DARK else GREY if counts[row, column] == 0 else "black"
        axis.text(column, row, f"{counts[row, column]:,}{percent}", ha="center", va="center", fontsize=size, color=ink)
    names = [shown(name) for name in results["classes"]]
    sizes = counts.sum(axis=1)
    style(axis, f"Confusion, n = {counts.sum():,}\n{_decision(results)}", "predicted", "true")
    axis.set_xticks(range(number), names, rotation=0 if number <= 4 else 40, ha="center" if number <= 4 else "right")
    axis.set_yticks(range(number), [f"{name} ({size:,})" for name, size in zip(names, sizes, strict=True)])
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)
    axis.tick_params(length=0)
    return figure


def draw_overlap(table: OverlapTable, results: SegmentationEvaluation, seed: int = 0) -> Figure:
    """Draw each image's Dice by structure, with the mean and its interval."""
    names = table.names
    figure = new_figure(SIDE + 0.8, 1.6 + 0.75 * len(names))
    axis = figure.subplots()
    structures, draw = np.array(table.structures), np.random.default_rng(seed)
    labels = []
    for place, name in enumerate(names):
        values = table.dice[structures == name]
        jitter = draw.uniform(-0.26, 0.26, len(values))
        axis.scatter(values, place + jitter, s=7, color=COLOURS[0], alpha=0.35, linewidths=0)
        mean = results["structures"][name]["dice"]
        if mean["value"] is not None and mean["low"] is not None and mean["high"] is not None:
            axis.plot([mean["low"], mean["high"]], [place] * 2, color=COLOURS[1], linewidth=3, zorder=3)
            axis.plot(mean["value"], place, "o", color=COLOURS[1], markersize=7, zorder=4)
        labels.append(f"{shown(name)}\n{interval_text(mean['value'], mean['low'], mean['high'])}")
    style(
        axis,
        f"Dice of {numbered(results['num_images'], 'image')}; mean and {results['level']:.0%} interval",
        "Dice",
        "",
    )
    axis.set_yticks(range(len(names)), labels)
    axis.set(xlim=(np.floor(10 * table.dice.min()) / 10 - 0.02, 1.02), ylim=(len(names) - 0.5, -0.5))
    return figure


def roc_curve(is_positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 - specificity and sensitivity from (0, 0) to (1, 1), a point for each distinct score."""
    true, false = _counts_from_above(is_positive, scores)
    return false / max(false[-1], 1), true / max(true[-1], 1)


def precision_recall_curve(is_positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision, a point for each distinct score from the highest down."""
    true, false = (each[1:] for each in _counts_from_above(is_positive, scores))
    return np.append(0, true / max(true[-1], 1)), np.append(1, true / (true + false))


def _counts_from_above(is_positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many positive and negative cases score at least each distinct score, beginning with none."""
    order = scores.argsort()[::-1]
    ordered = scores[order]
    last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    true = np.cumsum(is_positive[order])[last]
    return np.append(0, true), np.append(0, last + 1 - true)


def _sensitivity_on_grid(is_positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.interp(GRID, *roc_curve(is_positive, scores))


def _precision_on_grid(is_positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    recall, precision = precision_recall_curve(is_positive, scores)
    return precision[np.searchsorted(recall, GRID, side="left").clip(1, len(recall) - 1)]


def _draw_band(
    axis: Axes, test: Predictions, curve: Callable[[np.ndarray, np.ndarray], np.ndarray], level: float, seed: int
) -> None:
    """Draw the range of each of P points over resampled groups; resamples with one class only are left out."""
    is_positive, scores = test.labels == test.positive, test.positive_scores()
    drawn = [
        curve(is_positive[places], scores[places])
        for places in resamples(test.groups(), BAND_RESAMPLES, seed)
        if 0 < is_positive[places].sum() < len(places)
    ]
    if drawn:
        low, high = np.quantile(np.stack(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)  # (P,)
        axis.fill_between(GRID, low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label=f"{level:.0%} band")


def _operating_point(results: Evaluation) -> tuple[float, float, str]:
    """Return sensitivity and specificity on the test part, and what to call the point."""
    counts = np.array(results["confusion"]["threshold"] or results["confusion"]["argmax"])
    positive = results["classes"].index(str(results["positive"]))
    sensitivity, specificity = (_share(int(counts[k, k]), int(counts[k].sum())) for k in (positive, 1 - positive))
    said = "at the validation threshold" if results["confusion"]["threshold"] else "at the likeliest class"
    shares = f"sensitivity {number_text(sensitivity)}, specificity {number_text(specificity)}"
    return sensitivity, specificity, f"{said}\n{shares}"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _decision(results: Evaluation) -> str:
    threshold = results["threshold"]
    if threshold is None or results["confusion"]["threshold"] is None:
        return "the likeliest class"
    if isinstance(threshold["value"], list):
        return "at each fold's validation threshold"
    return f"at the validation threshold, {threshold['value']:.3f}"


def _sizes(results: Evaluation) -> str:
    return f"n = {results['num_images']:,} ({results['class_counts'][str(results['positive'])]:,} positive)"


def _interval(results: Evaluation, metric: str) -> str:
    found = results["metrics"].get(metric)
    return "" if found is None else interval_text(found["value"], found["low"], found["high"])
