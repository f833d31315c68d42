"""Draws what `arl shards bench` measured: the stages, the rate and the stalls by number of workers."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from arl_lightning.data.tuning.bench_report import BenchReport, Setting
from arl_lightning.data.tuning.stages import STAGES

FONT = 8
GREY = "0.35"
LIMIT = "0.55"
STAGE_COLOURS = {
    "read": "#6fb3b8",
    "decode": "#4c72b0",
    "crop": "#dd8452",
    "collate": "#937860",
    "whole": "#2f4b6e",
    "raw": "0.7",
}
LABELS = {"whole": "whole stream", "raw": "raw decode (limit)"}
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#8172b3", "#937860")


def draw_bench(report: BenchReport) -> Figure:
    """Return the figure: stages on the left, rates in the middle, stalls on the right."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
    draw_stages(axes[0], report)
    draw_rates(axes[1], report)
    draw_stalls(axes[2], report)
    for axis in axes:
        axis.title.set_size(FONT + 1)
        axis.tick_params(labelsize=FONT)
        axis.xaxis.label.set_size(FONT)
        axis.yaxis.label.set_size(FONT)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(report.corpus, fontsize=FONT + 2)
    return figure


def draw_stages(axis: Axes, report: BenchReport) -> None:
    """Draw a bar for each stage: microseconds an image, images a second beside it."""
    times = np.array([1e6 * getattr(report.stages, name) for name in STAGES])
    bars = axis.barh([LABELS.get(name, name) for name in STAGES], times, color=[STAGE_COLOURS[name] for name in STAGES])
    axis.bar_label(bars, [f"{1e6 / time:,.0f} img/s" for time in times], padding=3, fontsize=FONT, color=GREY)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.35 * times.max())
    axis.set(title="Stages on one core", xlabel="CPU time of an image (µs)")


def draw_rates(axis: Axes, report: BenchReport) -> None:
    """Draw the rate by number of workers, a line for each prefetch, the best setting marked."""
    numbers = sorted({setting.workers for setting in report.settings})
    limits = [report.limit * min(max(number, 1), report.cores) for number in numbers]
    axis.plot(numbers, limits, color=LIMIT, linestyle="--", label="raw decode of as many cores")
    _draw_lines(axis, report, "images_per_second")
    best = report.best
    axis.plot(best.workers, best.images_per_second, "o", markersize=11, fillstyle="none", color="black")
    axis.set_ylim(0, 1.35 * max(*limits, best.images_per_second))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.legend(fontsize=FONT, frameon=False, loc="upper left")
    axis.set(title=f"Whole stream, best: {_name(best)}", ylabel="images a second")


def draw_stalls(axis: Axes, report: BenchReport) -> None:
    """Draw the share of a consumer's time that it waits."""
    _draw_lines(axis, report, "stall_share")
    axis.set_ylim(-0.02, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set(title=f"Stalls at {report.step_ms:g} ms a batch", ylabel="share of the consumer's time")


def _draw_lines(axis: Axes, report: BenchReport, field: str) -> None:
    """Draw a line over the numbers of workers for each prefetch."""
    for (label, settings), colour in zip(_lines(report), itertools.cycle(COLOURS), strict=False):
        values = [getattr(setting, field) for setting in settings]
        axis.plot([setting.workers for setting in settings], values, "o-", color=colour, markersize=4, label=label)
    numbers = sorted({setting.workers for setting in report.settings})
    axis.set_xticks([number for number in numbers if number in (0, 1) or number > numbers[-1] / 12])
    axis.set_xlabel("workers")


def _lines(report: BenchReport) -> list[tuple[str, list[Setting]]]:
    """Return the settings of each prefetch; those without workers begin every line."""
    alone = [setting for setting in report.settings if not setting.workers]
    ahead = sorted({setting.prefetch for setting in report.settings if setting.workers}) or [0]
    return [
        (f"prefetch {number}", alone + [each for each in report.settings if each.workers and each.prefetch == number])
        for number in ahead
    ]


def _name(setting: Setting) -> str:
    return f"{setting.workers} workers" + (f", prefetch {setting.prefetch}" if setting.workers else "")
