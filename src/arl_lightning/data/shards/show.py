"""Lays a shard's images out on one sheet to be looked at: the function behind `arl shards show`.

H, W height and width of an image.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from arl_lightning.arguments import positional
from arl_lightning.data.shards.check import record_fault
from arl_lightning.data.shards.inventory import ListedShard, list_shards
from arl_lightning.data.shards.sample import Record
from arl_lightning.data.shards.stats_figure import anatomy_colours, save_png, shorten
from arl_lightning.data.shards.tars import TarDamageError, walk_entries
from arl_lightning.data.wording import one_line
from arl_lightning.errors import UserError

NUM_COLUMNS = 8
MAX_PICTURES = 1000  # a PNG of Matplotlib ends at 65,536 pixels
MAX_DIGITS = 20  # of a shard's number
CELL = 1.5  # inches
CAPTION = 0.34  # inches below a picture
BACKGROUND = "#111111"
TEXT = "#d8d8d8"
FONT = 6.5


@dataclass(frozen=True)
class Picture:
    """One image of a sheet: (H, W) grey or (H, W, 3) RGB, None where it does not decode."""

    key: str
    image: np.ndarray | None
    anatomy: str
    caption: str


@dataclass(frozen=True)
class ShowReport:
    """What was drawn; as a string, what the command line prints."""

    shard: str
    num_shown: int
    num_samples: int
    out: Path

    def __str__(self) -> str:
        return f"{self.shard}: {self.num_shown:,} of {self.num_samples:,} images in {one_line(self.out)}"


@positional("shards", "shard")
def show(shards: Path, shard: int | str = 0, num: int = 40, out: Path | None = None) -> ShowReport:
    """Draw the first images of a shard, which are a random sample of the corpus, with what their records say.

    Args:
        shards: Folder with the shards and their manifest, or with a folder for each split.
        shard: Its number, counted over all splits, or its name, such as `shard-000003.tar` or `val/shard-000000.tar`.
        num: The most images to draw.
        out: The PNG; by default named after the shard, in this folder.

    Returns:
        The report, for printing.

    Raises:
        UserError: If there is no such shard, it cannot be read, or the PNG cannot be written.
    """
    if not 1 <= num <= MAX_PICTURES:
        raise UserError(f"--num {num}: must be 1 to {MAX_PICTURES}")
    listed = _find(shards, str(shard))
    pictures = _read(listed, num)
    path = out or Path(Path(listed.name).with_suffix(".png").name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(draw_sheet(pictures, f"{shards.name}/{listed.name}"), path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
    return ShowReport(listed.name, len(pictures), listed.info.num_samples, path)


def _find(shards: Path, wanted: str) -> ListedShard:
    listed = list_shards(shards)
    if wanted.isdecimal():
        if len(wanted) < MAX_DIGITS and int(wanted) < len(listed):
            return listed[int(wanted)]
        raise UserError(f"--shard {wanted[:MAX_DIGITS]}: {shards} has shards 0 to {len(listed) - 1}")
    found = [each for each in listed if wanted in (each.name, each.name.removesuffix(".tar"))]
    if not found:
        raise UserError(f"--shard {wanted}: not in {shards}, which has {listed[0].name} to {listed[-1].name}")
    return found[0]


def _read(shard: ListedShard, num: int) -> list[Picture]:
    pictures = []
    try:
        with shard.path.open("rb") as file:
            for entry in list(islice(walk_entries(file), num)):
                record = json.loads(entry.record.read(file))
                if fault := record_fault(record, frozenset([record["anatomy"]])):
                    raise ValueError(fault)
                image = _decode(entry.image.read(file))
                pictures.append(Picture(entry.key, image, record["anatomy"], _caption(record)))
    except OSError as error:
        raise UserError(f"{shard.path}: cannot be read ({error.strerror}); copy it again, or pack again") from error
    except (TarDamageError, ValueError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, TarDamageError) else "a record does not follow the schema"
        raise UserError(
            f"{shard.path}: {reason}; `arl shards verify {shard.path.parent}` finds all that is wrong"
        ) from error
    return pictures


def _decode(encoded: bytes) -> np.ndarray | None:
    if not encoded:
        return None
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_ANYCOLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image is not None and image.ndim == 3 else image


def draw_sheet(pictures: Sequence[Picture], title: str) -> Figure:
    """Return the sheet: rows of pictures, below each its anatomy, its source and its size."""
    num_columns = min(NUM_COLUMNS, max(len(pictures), 4))
    num_rows = math.ceil(len(pictures) / num_columns)
    width, height = CELL * num_columns, (CELL + CAPTION) * num_rows + 0.4
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    figure.text(
        0.1 / width, 1 - 0.2 / height, one_line(title), color=TEXT, fontsize=FONT + 3, va="center", parse_math=False
    )
    colours = anatomy_colours([picture.anatomy for picture in pictures])
    for number, picture in enumerate(pictures):
        row, column = divmod(number, num_columns)
        left, top = CELL * column, height - 0.4 - (CELL + CAPTION) * row
        box = ((left + 0.05) / width, (top - CELL) / height, (CELL - 0.1) / width, (CELL - 0.02) / height)
        _draw(figure.add_axes(box), picture.image)
        lines = ((picture.anatomy, _lighter(colours[picture.anatomy])), (picture.caption, TEXT))
        for line, (text, colour) in enumerate(lines):
            place = ((left + 0.05) / width, (top - CELL - 0.09 - 0.12 * line) / height)
            figure.text(*place, one_line(text), color=colour, fontsize=FONT, va="center", parse_math=False)
    return figure


def _draw(axis: Axes, image: np.ndarray | None) -> None:
    axis.set_axis_off()
    axis.set_anchor("S")
    if image is None:
        axis.text(0.5, 0.5, "does not decode", color=TEXT, fontsize=FONT, ha="center", va="center")
    else:
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")


def _caption(record: Record) -> str:
    return f"{shorten(record['source'])}  {record['width']} x {record['height']}"


def _lighter(colour: str) -> tuple[float, float, float]:
    """Return a colour that can be read on black."""
    red, green, blue = (0.6 * part + 0.4 for part in to_rgb(colour))
    return red, green, blue
