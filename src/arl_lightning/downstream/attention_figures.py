"""Pictures of where an encoder looks, over the image as the user knows it.

Legend: H, W of an image; S side of the square that the network sees; h x w the patch grid; N patches, K sampling
locations of each.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from arl_lightning.data.tasks.fit import Fit, unfit
from arl_lightning.data.wording import count
from arl_lightning.downstream.attention import From
from arl_lightning.evaluation.files import replacing

DPI = 130
PANEL_INCHES, WIDE_INCHES = 3.4, 7.0
MAX_COLUMNS = 6  # of the small panels, one a head
HEAT, OPAQUE = "inferno", 0.75
LEAST_TOP, TOP = 2.0, 99.5  # of the scale: never below twice an even share, else a percentile of all heads
WHOSE = {"class": "class token's attention", "patches": "all patches' attention"}

NUM_SHOWN = 3  # patches a side whose sampling locations are drawn
DOT = 26  # square points of a location of weight 1
OUTSIDE = "#303030"  # around the image, where nothing but zero is read
EDGE = 0.015  # of the image's longer side, around what is drawn
CORNERS = np.array([[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]])  # of a patch
REGULAR = np.array([[row, column] for row in (-1, 0, 1) for column in (-1, 0, 1)])  # as `sampling_locations` orders
# Light, so that they stand out from ultrasound, and neighbours differ in more than red and green.
COLOURS = ("#66ccee", "#ff9988", "#eedd55", "#88dd77", "#99b8ff", "#ff99dd", "#ffb366", "#55ddcc", "#ffffff")


def write_attention(
    image: np.ndarray, maps: np.ndarray, fit: Fit, size: int, origin: From, title: str, path: Path
) -> None:
    """Draw the mean over heads beside the image, and each head small, all on one scale.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        maps: (heads, h, w) of `attention_maps`.
        fit: How the image became the square.
        size: S.
        origin: Whose attention it is.
        title: Above all.
        path: The PNG; written under another name first.
    """
    # In units of an even share, which do not depend on the number of patches.
    mean, *heads = (_over_image(each * each.size, fit, size, image.shape[:2]) for each in (maps.mean(axis=0), *maps))
    most = max(LEAST_TOP, float(np.percentile(maps * maps[0].size, TOP)))
    columns = min(MAX_COLUMNS, len(heads))
    rows, aspect = -(-len(heads) // columns), _aspect(image)
    tall, small = PANEL_INCHES * aspect + 0.3, 2 * PANEL_INCHES / columns * aspect + 0.25
    figure = Figure(figsize=(2 * PANEL_INCHES + 0.9, tall + rows * small + 0.4), layout="constrained")
    above, below = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[tall, rows * small])))
    left, right = above.subplots(1, 2)
    _show(left, image, "image")
    _show(right, image, f"{WHOSE[origin]}, mean of {count(len(heads), 'head')}")
    shown = _heat(right, mean, most)
    bar = above.colorbar(shown, ax=[left, right], extend="max", shrink=0.95)
    bar.set_label("attention, times an even share", fontsize="small")
    bar.ax.tick_params(labelsize="small")
    panels = below.subplots(rows, columns, squeeze=False).ravel()
    for place, axes in enumerate(panels):
        if place < len(heads):
            _show(axes, image, f"head {place}")
            _heat(axes, heads[place], most)
        else:
            axes.set_axis_off()
    figure.suptitle(title, fontsize="small", parse_math=False)
    _save(figure, path)


def write_offsets(
    image: np.ndarray,
    locations: np.ndarray,
    modulation: np.ndarray,
    fit: Fit,
    size: int,
    patch: int,
    title: str,
    path: Path,
) -> None:
    """Draw where a few patches' keys and values are read from.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        locations: (N, K, 2) of `sampling_locations`.
        modulation: (N, K).
        fit: How the image became the square.
        size: S.
        patch: Pixels a side of a patch of the square.
        title: Above all.
        path: The PNG; written under another name first.
    """
    shape = (image.shape[0], image.shape[1])
    figure = Figure(figsize=(WIDE_INCHES, WIDE_INCHES * _aspect(image) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(OUTSIDE)
    _show(axes, image, "")
    grid = size // patch
    reached = [np.zeros(2), np.array(shape)]
    for colour, number in zip(COLOURS, shown_patches(grid), strict=True):
        place = np.array(divmod(number, grid))
        drawn = {
            name: on_image(points * patch, fit, size, shape)
            for name, points in (
                ("outline", CORNERS + place),
                ("centre", place + 0.5),
                ("regular", REGULAR + place + 0.5),
                ("read", locations[number] + 0.5),
            )
        }
        _draw_reading(axes, drawn, modulation[number], colour)
        reached += list(drawn["read"])
    least, most = np.min(reached, axis=0), np.max(reached, axis=0)  # what is read outside of the image is zero
    around = EDGE * max(shape)
    axes.set(xlim=(least[1] - around, most[1] + around), ylim=(most[0] + around, least[0] - around))
    figure.legend(
        handles=_reading_legend(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize="small",
        columnspacing=1.2,
    )
    figure.suptitle(title, fontsize="small", parse_math=False)
    _save(figure, path)


def _draw_reading(axes: Axes, drawn: dict[str, np.ndarray], modulation: np.ndarray, colour: str) -> None:
    """Draw a patch's outline, and lines from its centre to what it reads; all points are row and column."""
    outline, centre, regular, read = (drawn[name] for name in ("outline", "centre", "regular", "read"))
    axes.plot(outline[:, 1], outline[:, 0], color=colour, linewidth=1.4)
    for y, x in read:
        axes.plot([centre[1], x], [centre[0], y], color=colour, linewidth=0.7, alpha=0.7)
    axes.scatter(regular[:, 1], regular[:, 0], s=16, color=colour, marker="+", linewidths=0.8, zorder=3)
    axes.scatter(read[:, 1], read[:, 0], s=DOT * modulation, color=colour, edgecolors="black", linewidths=0.5, zorder=4)


def _reading_legend() -> list[Line2D]:
    def entry(marker: str, size: float, label: str, filled: bool = True) -> Line2D:
        face = "grey" if filled else "none"
        return Line2D(
            [], [], marker=marker, markersize=size, color="grey", markerfacecolor=face, linestyle="", label=label
        )

    dots = [entry("o", (DOT * weight) ** 0.5, f"read, weight {weight:g}") for weight in (0.5, 1.0, 1.5)]
    return [entry("s", 9, "patch", filled=False), entry("+", 5, "without offset"), *dots]


def shown_patches(grid: int) -> list[int]:
    """Return the numbers of patches spread evenly over a grid of so many a side, row by row."""
    places = [round((each + 0.5) * grid / NUM_SHOWN - 0.5) for each in range(NUM_SHOWN)]
    return [row * grid + column for row in places for column in places]


def on_image(points: np.ndarray, fit: Fit, size: int, shape: tuple[int, int]) -> np.ndarray:
    """Bring points on the square to where they lie on the image, the inverse of `fit_image`.

    Args:
        points: (..., 2) row and column in pixels of the square, from its upper left corner.
        fit: How the image became the square.
        size: S.
        shape: H and W.
    """
    height, width = shape
    if fit == "squash":
        return points * np.array([height / size, width / size])
    side = max(shape) if fit == "pad" else min(shape)
    corner = np.array([(height - side) // 2, (width - side) // 2])
    if fit == "pad":
        corner = -np.array([(side - height) // 2, (side - width) // 2])
    return points * (side / size) + corner


def _over_image(heat: np.ndarray, fit: Fit, size: int, shape: tuple[int, ...]) -> np.ndarray:
    """Enlarge a map (h, w) to the image, (H, W), each patch one flat piece."""
    square = np.repeat(np.repeat(heat, size // heat.shape[0], axis=0), size // heat.shape[1], axis=1)
    return unfit(square.astype(np.float32), fit, (shape[0], shape[1]))


def _aspect(image: np.ndarray) -> float:
    return min(max(image.shape[0] / image.shape[1], 0.4), 2.0)


def _show(axes: Axes, image: np.ndarray, title: str) -> None:
    height, width = image.shape[:2]
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize="small", pad=3)


def _heat(axes: Axes, heat: np.ndarray, most: float) -> AxesImage:
    """Lay a map (H, W) over an image, the more opaque the higher it is."""
    height, width = heat.shape
    alpha = OPAQUE * np.clip(heat / most, 0, 1)
    extent = (0, width, height, 0)
    axes.imshow(heat, cmap=HEAT, vmin=0, vmax=most, alpha=alpha, extent=extent, aspect="equal")
    return AxesImage(axes, cmap=HEAT, norm=Normalize(0, most))  # for a colour bar that is not transparent


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
