"""Contact sheets of segmented images: the worst, the middle and the best of a run, with both outlines.

Legend: N images, H rows and W columns of pixels; images may differ in size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from arl_lightning.evaluation.files import replacing

# Told apart by the colour-blind, and against grey.
TRUTH_COLOUR, PREDICTION_COLOUR = "#00d5ff", "#ff8c00"
PANEL_INCHES, DPI = 2.4, 130
MAX_NAME = 26  # characters above a panel


@dataclass(frozen=True)
class Panel:
    """One image of a contact sheet.

    Attributes:
        name: Written above it; its beginning is cut off where it is long.
        image: uint8 (H, W), or (H, W, 3).
        truth: The true mask, 0 for background; of any resolution that shows the same field.
        prediction: The predicted one, likewise.
        dice: Of each structure, written on it.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    dice: Mapping[str, float]


def choose_examples(dice: Sequence[float], num_each: int) -> dict[str, list[int]]:
    """Choose which images of a run to show.

    Args:
        dice: N scores.
        num_each: Images of each kind, fewer where N is below three times that.

    Returns:
        Places of the `worst`, those about the `median`, and the `best`, each ascending in score; no image is shown
        twice. Where scores agree the earlier place counts as the worse.
    """
    order = np.argsort(np.asarray(dice), kind="stable").tolist()
    num_each = min(num_each, len(order) // 3)
    if num_each == 0:
        return {"worst": order[:1], "median": order[1:-1], "best": order[1:][-1:]}
    start = min(max((len(order) - num_each) // 2, num_each), len(order) - 2 * num_each)
    return {"worst": order[:num_each], "median": order[start : start + num_each], "best": order[-num_each:]}


def write_sheet(rows: Mapping[str, Sequence[Panel]], path: Path, title: str = "") -> None:
    """Write a contact sheet as a PNG, under a temporary name first.

    Args:
        rows: What stands left of each row, and its panels.
        path: The PNG; its folder is made.
        title: Above all.

    Raises:
        ValueError: If there is no panel.
        UserError: If it cannot be written.
    """
    rows = {name: panels for name, panels in rows.items() if panels}
    if not rows:
        raise ValueError("a contact sheet needs a panel")
    figure = draw_sheet(rows, title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def draw_sheet(rows: Mapping[str, Sequence[Panel]], title: str) -> Figure:
    """Lay panels out, one row for each name, with a legend below."""
    num_columns = max(len(panels) for panels in rows.values())
    size = (PANEL_INCHES * num_columns + 0.4, (PANEL_INCHES + 0.1) * len(rows) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), num_columns, squeeze=False)
    for row, (name, panels) in enumerate(rows.items()):
        for column in range(num_columns):
            axes[row, column].set(xticks=[], yticks=[])
            if column < len(panels):
                draw_panel(axes[row, column], panels[column])
            else:
                axes[row, column].set_axis_off()
        axes[row, 0].set_ylabel(name, fontsize="medium")
    truth = Line2D([], [], color=TRUTH_COLOUR, linestyle="solid", linewidth=2)
    prediction = Line2D([], [], color=PREDICTION_COLOUR, linestyle="dashed", linewidth=2)
    labels = ["truth", "prediction"]
    figure.legend([truth, prediction], labels, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title, fontsize="medium")
    return figure


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw an image with both outlines, its name, and its Dice."""
    height, width = panel.image.shape[:2]
    axes.imshow(panel.image, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), aspect="equal")
    draw_outline(axes, panel.truth, (height, width), TRUTH_COLOUR, "solid")
    draw_outline(axes, panel.prediction, (height, width), PREDICTION_COLOUR, "dashed")
    name = panel.name if len(panel.name) <= MAX_NAME else f"…{panel.name[1 - MAX_NAME :]}"
    axes.set_title(name, fontsize="x-small", pad=3)
    scores = [
        f"{dice:.2f}" if len(panel.dice) == 1 else f"{structure} {dice:.2f}" for structure, dice in panel.dice.items()
    ]
    box = {"facecolor": "black", "alpha": 0.6, "pad": 1.5, "edgecolor": "none"}
    axes.text(
        0.02, 0.02, "Dice " + ", ".join(scores), transform=axes.transAxes, color="white", fontsize="small", bbox=box
    )


def draw_outline(axes: Axes, mask: np.ndarray, size: tuple[int, int], colour: str, style: str) -> None:
    """Draw the border of each structure of a mask over an image of another height and width."""
    # A rim of background closes the outline of what reaches the image's edge.
    padded = np.pad(mask, 1)
    y, x = ((np.arange(length + 2) - 0.5) * full / length for length, full in zip(mask.shape, size, strict=True))
    for value in np.unique(mask[mask > 0]):
        axes.contour(x, y, padded == value, levels=[0.5], colors=[colour], linewidths=1.4, linestyles=style)
    axes.set(xlim=(0, size[1]), ylim=(size[0], 0))
