"""Draws what a corpus holds: images by anatomy (the paper's Figure 1c) and source, their sizes, images of a patient."""

from collections.abc import Collection, Sequence, Sized
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from arl_lightning.data.anatomy import ANATOMIES, OTHER
from arl_lightning.data.shards.stats_report import Groups, Spread, StatsReport
from arl_lightning.data.wording import one_line

DPI = 200
WIDTH = 10.0  # inches
BAR_HEIGHT = 0.24  # inches
MIN_HEIGHT = 3.3  # inches of a row
LOG_RATIO = 30  # counts further apart are drawn on a logarithmic scale
MAX_BARS = 30
MAX_NAME = 22  # characters
SIZE_BINS = 56

FONT = 8
GREY = "0.35"
GROUP_COLOURS = ("#4c72b0", "#dd8452")
COLOUR_OTHER = "#a0a0a0"
COLOURS = {
    "abdominal": "#8c6d31",
    "aorta": "#9c2f45",
    "bladder": "#c7b042",
    "breast": "#d6618f",
    "cardiac": "#c23b32",
    "doppler": "#5a3e85",
    "esophageal": "#b58863",
    "gallbladder": "#5c8f3a",
    "kidney": "#7b4173",
    "liver": "#a0522d",
    "lung": "#4a90c4",
    "muscle": "#e08b4a",
    "oncology": "#3d3d5c",
    "soft_tissue": "#d9a0a0",
    "testicle": "#6fb3b8",
    "thyroid": "#2f6f73",
}
SPARE_COLOURS = tuple(COLOURS.values())  # for a vocabulary of one's own


def draw_corpus(report: StatsReport) -> Figure:
    """Return the figure: bars by anatomy and by source on the left, sizes and patients on the right."""
    sources = {name: source.images for name, source in report.sources.items()}
    bars = [min(len(report.anatomies), MAX_BARS), min(len(sources), MAX_BARS)]
    heights = [max(BAR_HEIGHT * count + 1.0, MIN_HEIGHT) for count in bars]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12))
    (upper, sizes), (lower, groups) = figure.subplots(2, 2, height_ratios=heights)
    colours = anatomy_colours(list(report.anatomies))
    draw_bars(upper, report.anatomies, [colours[name] for name in report.anatomies])
    leading = [next(iter(source.anatomies)) for source in report.sources.values()]
    draw_bars(lower, sources, [colours[name] for name in leading])
    draw_sizes(figure, sizes, report.sizes, report.height, report.width)
    draw_groups(groups, report.patients, report.clips)
    absent = [name for name in ANATOMIES if name not in report.anatomies]
    upper.set_xlabel(f"images  (none of {', '.join(absent)})" if 0 < len(absent) <= 4 else "images")
    lower.set_xlabel("images  (colour: the source's most frequent anatomy)")
    titles = ("a  Anatomies", "b  Sources", "c  Image sizes", "d  Images per patient and clip")
    for axis, title in zip((upper, lower, sizes, groups), titles, strict=True):
        axis.set_title(title, loc="left", fontsize=FONT + 2, fontweight="bold")
        axis.tick_params(labelsize=FONT)
        axis.xaxis.label.set_size(FONT)
        axis.yaxis.label.set_size(FONT)
    shards = (
        f"{report.num_samples:,} ultrasound images of {_numbered(report.anatomies, 'anatomy', 'anatomies')}"
        f" from {_numbered(sources, 'source', 'sources')}"
    )
    figure.suptitle(shards, fontsize=FONT + 4)
    return figure


def _numbered(things: Sized, one: str, several: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else several}"


def anatomy_colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each anatomy; those of the vocabulary have the same one in every figure."""
    strange = sorted(name for name in names if name not in COLOURS and name != OTHER)
    spare = {name: SPARE_COLOURS[index % len(SPARE_COLOURS)] for index, name in enumerate(strange)}
    return {OTHER: COLOUR_OTHER} | COLOURS | spare


def draw_bars(axis: Axes, counts: dict[str, int], colours: Sequence[str]) -> None:
    """Draw horizontal bars, the largest on top, each with its count and share."""
    total, shown = sum(counts.values()), list(counts.items())[:MAX_BARS]
    labels = [shorten(one_line(name.replace("_", " "))) for name, _ in shown]
    values = [count for _, count in shown]
    places = np.arange(len(shown))
    axis.barh(places, values, height=0.72, color=colours[: len(shown)])
    for place, value in zip(places, values, strict=True):
        share = value / total
        text = f"{value:,}  ({share:.1%})" if share >= 0.001 else f"{value:,}  (<0.1%)"
        axis.annotate(text, (value, place), (4, 0), textcoords="offset points", va="center", fontsize=FONT, color=GREY)
    axis.set_yticks(places, labels, parse_math=False)
    axis.set_ylim(max(len(shown), 5) - 0.4, -0.6)
    logarithmic = max(values) > LOG_RATIO * min(values)
    if logarithmic:
        axis.set_xscale("log")
        axis.set_xlim(
            10 ** np.floor(np.log10(min(values)) - 0.1), max(values) ** 1.0 * (max(values) / min(values)) ** 0.45
        )
    else:
        axis.set_xlim(0, 1.35 * max(values))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="0.92", zorder=0)
    axis.set_axisbelow(True)


def draw_sizes(figure: Figure, axis: Axes, sizes: dict[tuple[int, int], int], height: Spread, width: Spread) -> None:
    """Draw how many images have which width and height, on logarithmic scales all around."""
    rows, columns = np.array(list(sizes)).T
    low = np.log2(min(height.minimum, width.minimum)) - 0.3
    high = np.log2(max(height.maximum, width.maximum)) + 0.3
    edges = 2 ** np.linspace(low, high, SIZE_BINS + 1)
    counts = np.histogram2d(rows, columns, (edges, edges), weights=list(sizes.values()))[0]
    mesh = axis.pcolormesh(edges, edges, np.ma.masked_equal(counts, 0), norm=LogNorm(vmin=1), cmap="viridis_r")
    axis.plot(edges[[0, -1]], edges[[0, -1]], color="0.85", linewidth=0.8, zorder=0)
    ticks = 2 ** np.arange(np.ceil(low), np.floor(high) + 1)
    for scale, own in ((axis.set_xscale, axis.xaxis), (axis.set_yscale, axis.yaxis)):
        scale("log", base=2)
        own.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set(xlim=edges[[0, -1]], ylim=edges[[0, -1]], xlabel="width (pixels)", ylabel="height (pixels)")
    axis.set_box_aspect(1)
    axis.set_anchor("NW")
    spreads = [f"{name} {each.mean:.1f} ± {each.std:.1f}" for name, each in (("width", width), ("height", height))]
    axis.text(0.04, 0.96, "\n".join(spreads), transform=axis.transAxes, va="top", fontsize=FONT, color=GREY)
    axis.spines[["top", "right"]].set_visible(False)
    bar = figure.colorbar(mesh, cax=axis.inset_axes((1.03, 0, 0.035, 1)))
    bar.set_label("images", fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT)
    bar.outline.set_visible(False)


def draw_groups(axis: Axes, patients: Groups, clips: Groups) -> None:
    """Draw how many patients, and clips, have how many images."""
    known = [(name, groups) for name, groups in (("patients", patients), ("clips", clips)) if groups.number]
    axis.set(xlabel="images of one", ylabel=" or ".join(name for name, _ in known) or "patients or clips")
    axis.spines[["top", "right"]].set_visible(False)
    if not known:
        axis.text(0.5, 0.5, "no patient and no clip is known", ha="center", transform=axis.transAxes, fontsize=FONT)
        axis.set(xticks=[], yticks=[])
        return
    most = max(groups.sizes[-1] for _, groups in known)
    edges = count_edges(most)
    for (name, groups), colour in zip(known, GROUP_COLOURS, strict=False):
        axis.stairs(
            np.histogram(groups.sizes, edges)[0], edges, fill=True, alpha=0.45, color=colour,
            label=f"{groups.number:,} {name}, median {np.median(groups.sizes):g}",
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlim(edges[0], edges[-1])
    for own in (axis.xaxis, axis.yaxis):
        own.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.legend(fontsize=FONT, frameon=False)


def count_edges(most: int) -> np.ndarray:
    """Return edges of bins for whole numbers from 1 to `most`: single numbers first, then wider and wider."""
    edges = [1]
    while edges[-1] <= most:
        edges.append(max(edges[-1] + 1, round(1.25 * edges[-1])))
    return np.array(edges) - 0.5


def shorten(name: str) -> str:
    """Return a name that fits beside a bar."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"


def _count(things: Collection[str], one: str, several: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else several}"


def compact(value: float) -> str:
    """Return 1500 as 1.5k and 2000000 as 2M."""
    for unit, factor in (("M", 10**6), ("k", 10**3)):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def save_png(figure: Figure, path: Path) -> None:
    """Write a PNG under a temporary name first."""
    temporary = path.with_name(f"{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=DPI)
    temporary.replace(path)
