"""Figures of several runs: a forest of intervals, and the curve of few labels (the paper's Figure 4)."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from arl_lightning.evaluation.comparison import Comparison, Row
from arl_lightning.evaluation.drawing import FONT, GREY, SIDE, colour, dashes, legend, new_figure, shown, style
from arl_lightning.evaluation.summary import Curve
from arl_lightning.evaluation.wording import LOWER_IS_BETTER, metric_name, number_text, p_text, without_common_folders

ROW = 0.34  # inches


def draw_few_labels(curves: Mapping[str, Curve], metric: str, num_images: int) -> Figure:
    """Draw a metric against the share of the labels: mean and standard deviation over seeds, a line for each run."""
    figure = new_figure(SIDE + 0.4, SIDE - 0.4)
    axis = figure.subplots()
    labels: dict[float, str] = {}
    names = without_common_folders(list(curves))
    for place, (name, curve) in enumerate(zip(names, curves.values(), strict=True)):
        known = [k for k, mean in enumerate(curve["mean"]) if mean is not None]
        at, means = [curve["fraction"][k] for k in known], [curve["mean"][k] or 0.0 for k in known]
        stds = [curve["std"][k] or 0.0 for k in known]
        (line,) = axis.plot(at, means, "o", color=colour(place), markersize=4, label=shown(name))
        line.set_linestyle(dashes(place))
        low, high = ([mean + sign * std for mean, std in zip(means, stds, strict=True)] for sign in (-1, 1))
        axis.fill_between(at, low, high, color=colour(place), alpha=0.15, linewidth=0)
        for k in known:
            number = curve["n_train"][k]
            labels.setdefault(at[known.index(k)], "" if number is None else f"\n{number:,}")
    seeds = sorted({number for curve in curves.values() for number in curve["num_seeds"]})
    said = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    title = f"Few labels, test n = {num_images:,}; mean ± std over {said} seed{'' if seeds == [1] else 's'}"
    style(axis, title, "share of the labels, and training images", metric_name(metric))
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks(list(labels), [f"{100 * share:g}%{number}" for share, number in labels.items()])
    legend(axis, "upper right" if metric in LOWER_IS_BETTER else "lower right")
    return figure


def draw_forest(comparison: Comparison) -> Figure:
    """Draw each run's metrics with their intervals, beside the differences to the first run; a row for each metric."""
    rows, metrics = comparison.rows, comparison.metrics
    figure = new_figure(SIDE + 0.8, 0.9 + len(metrics) * (0.75 + ROW * len(rows)))
    axes = figure.subplots(len(metrics), 2, squeeze=False, sharey="row", width_ratios=(1, 1))
    names = [shown(name) for name in without_common_folders([row.name for row in rows])]
    for line, metric in enumerate(metrics):
        _draw_values(axes[line, 0], rows, metric)
        _draw_differences(axes[line, 1], rows, metric)
        axes[line, 0].set_yticks(range(len(rows)), names)
        axes[line, 0].set_ylim(len(rows) - 0.4, -0.7)
        for axis in axes[line]:
            axis.tick_params(axis="y", length=0)
    about, grouping = comparison.about, f"{comparison.level:.0%} intervals; {comparison.grouping}"
    figure.suptitle(f"{about}\n{grouping}", fontsize=FONT)
    return figure


def _draw_values(axis: Axes, rows: Sequence[Row], metric: str) -> None:
    first = rows[0].metrics[metric]["value"]
    if first is not None:
        axis.axvline(first, color=GREY, linewidth=0.8, linestyle=":")
    for place, row in enumerate(rows):
        each = row.metrics[metric]
        _draw_interval(axis, place, each["value"], each["low"], each["high"], colour(0))
        _annotate(axis, place, each["value"], number_text(each["value"], metric))
    style(axis, metric_name(metric), "", "")


def _draw_differences(axis: Axes, rows: Sequence[Row], metric: str) -> None:
    axis.axvline(0, color=GREY, linewidth=0.8)
    for place, row in enumerate(rows[1:], 1):
        each = row.differences[metric]
        _draw_interval(axis, place, each["difference"], each["low"], each["high"], colour(1))
        _annotate(axis, place, each["difference"], f"p {p_text(each['p'])}")
    style(axis, "less the first run", "", "")


def _draw_interval(
    axis: Axes, place: int, value: float | None, low: float | None, high: float | None, ink: str
) -> None:
    if low is not None and high is not None:
        axis.plot([low, high], [place, place], color=ink, linewidth=2, solid_capstyle="butt")
    if value is not None:
        axis.plot(value, place, "s", color=ink, markersize=6)


def _annotate(axis: Axes, place: int, value: float | None, text: str) -> None:
    if value is not None:
        axis.annotate(
            text, (value, place), (0, 5), textcoords="offset points", ha="center", fontsize=FONT - 1, color=GREY,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
        )  # fmt: skip
