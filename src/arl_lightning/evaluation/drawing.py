"""What all figures share: sizes, colours, and how they are written."""

from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from arl_lightning.evaluation.files import replacing

DPI = 150
SIDE = 5.2  # inches, 780 pixels
FONT = 9
GREY = "0.35"
PALE = "0.88"
COLOURS = ("#2f5d8a", "#c8553d", "#4d8b55", "#8a5a9e", "#b8892b", "#3b8f95", "#9c4668", "#6b6b6b")
Corner = Literal["upper left", "upper right", "lower left", "lower right"]
MAX_NAME = 28  # characters


def new_figure(width: float = SIDE, height: float = SIDE) -> Figure:
    """Return a figure that keeps its parts apart by itself; no state of pyplot's is touched."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))


def style(axis: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Give an axis its words and the look of all figures."""
    axis.set_title(title, loc="left", fontsize=FONT + 2)
    axis.set_xlabel(xlabel, fontsize=FONT + 1)
    axis.set_ylabel(ylabel, fontsize=FONT + 1)
    axis.tick_params(labelsize=FONT)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="0.93", linewidth=0.8)
    axis.set_axisbelow(True)


def unit_square(axis: Axes) -> None:
    """Show shares from 0 to 1 on both axes."""
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axis.set_box_aspect(1)


def legend(axis: Axes, place: Corner) -> None:
    """Draw a legend that what lies below it shines through a little."""
    axis.legend(loc=place, fontsize=FONT, framealpha=0.85, edgecolor="none")


def colour(place: int) -> str:
    """Return the colour of a series."""
    return COLOURS[place % len(COLOURS)]


def dashes(place: int) -> Literal["-", "--", ":", "-."]:
    """Return the line style of a series, another one where colours come round again."""
    styles: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
    return styles[place // len(COLOURS) % len(styles)]


def shown(name: str) -> str:
    """Return a name that fits into a figure, in which a dollar begins no formula."""
    name = name.replace("_", " ")
    return (name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}\N{HORIZONTAL ELLIPSIS}").replace("$", r"\$")


def save_png(figure: Figure, path: Path) -> None:
    """Write a PNG under a temporary name first."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
