"""Reads what a mask shows: files of pixels or an outline, as uint8 with 0 for background and k for structure k.

S structures; a mask is uint8 (H, W) at the image's own size, that of the case's box where it has one.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from arl_lightning.data.media import (
    IMAGE_FORMATS,
    UnreadableError,
    check_size,
    quiet_pillow,
    reason_of,
    refuse_machine_failure,
)
from arl_lightning.data.tasks.case import Case, Finding
from arl_lightning.data.tasks.pixels import part_of

BYTE, WORD = 255, 65535  # white in a file of 8 or of 16 bits; a file of 16 bits may hold values of 8
WHITE = 128  # of 255: the least value of a structure, above what JPEG and resampling leave around a black background
NO_MASK = "has no mask; leave it out of a segmentation"
MAX_NAMED = 5  # values that a finding names


def read_mask(case: Case, num_structures: int, size: tuple[int, int]) -> tuple[np.ndarray | None, list[Finding]]:
    """Read a case's mask, uint8 (H, W); None where it cannot be used.

    With one structure a pixel belongs to it from 128 of 255 on, in a file that goes beyond 255 from the same share of
    65535, or above 0 in a file whose highest value is 1. With several, value k is structure k. A pixel of several files
    belongs to the highest of their values. Of a case with a box the part within is returned, read as the whole is.

    Args:
        case: Names the files, or the outline.
        num_structures: S; 1 where the task names none.
        size: Height and width of the whole picture.
    """
    if not case.has_mask:
        return None, [Finding(case.path, "missing", NO_MASK)]
    if case.outline is not None:
        return _read_outline(case, size)
    united, findings = np.zeros(size, np.uint8), []
    for path in case.masks:
        mask = read_mask_file(path, num_structures, size)
        if isinstance(mask, Finding):
            findings.append(mask)
        else:
            np.maximum(united, mask, out=united)
    if findings:
        return None, findings
    mask, where = part_of(united, case.box), "" if case.box is None else f" within the box of {case.key}"
    return mask, [] if mask.any() else [Finding(case.masks[0], "note", f"empty mask: it shows no structure{where}")]


def read_mask_file(path: Path, num_structures: int, size: tuple[int, int]) -> np.ndarray | Finding:
    """Read one file of a mask, or say why it cannot be used."""
    if not path.is_file():
        return Finding(path, "missing", "mask that the image names; copy it, or leave the image out")
    try:
        with quiet_pillow():
            values = _load_values(path)
    except Exception as error:  # damage surfaces as many types, as it does of images
        refuse_machine_failure(error)
        return Finding(path, "unreadable", reason_of(path, error))
    if values.shape != size:
        (height, width), (image_height, image_width) = values.shape, size
        reason = f"mask of {width}x{height} pixels for an image of {image_width}x{image_height}; redraw or leave out"
        return Finding(path, "inconsistent", reason)
    return _one_structure(path, values) if num_structures <= 1 else _several_structures(path, values, num_structures)


def _load_values(path: Path) -> np.ndarray:
    """Return a file's own values, (H, W); of colours the brightest channel, so that a red lesion is as good as a white.

    A palette of greys stands for its greys, one of colours for its indexes.
    """
    with Image.open(path, formats=IMAGE_FORMATS) as image:
        check_size(image.height, image.width)
        image.load()
        if image.mode in ("1", "LA") or (image.mode == "P" and _is_grey_palette(image)):
            return np.asarray(image.convert("L"))
        values = np.asarray(image if image.mode[0] in "LPIFR" else image.convert("RGB"))
    if not np.isfinite(values).all():
        raise UnreadableError("mask with values that are not finite")
    return values if values.ndim == 2 else values[..., :3].max(axis=-1)  # (H, W, 3 or 4) -> (H, W)


def _is_grey_palette(image: Image.Image) -> bool:
    colours = np.asarray(image.getpalette("RGB")).reshape(-1, 3)  # (P * 3,) -> (P, 3)
    used = [index for _, index in image.getcolors() or [] if isinstance(index, int) and index < len(colours)]
    return bool((colours[used] == colours[used, :1]).all())


def _one_structure(path: Path, values: np.ndarray) -> np.ndarray | Finding:
    highest = float(values.max())
    full = BYTE if highest <= BYTE else WORD
    white = WHITE / BYTE * full
    if 1 < highest < white or highest > WORD or not highest.is_integer():
        reason = f"mask whose highest value is {highest:g}; draw the structure as {full} or 1"
        return Finding(path, "inconsistent", reason)
    return (values > 0 if highest == 1 else values >= white).astype(np.uint8)


def _several_structures(path: Path, values: np.ndarray, num_structures: int) -> np.ndarray | Finding:
    inside = np.isin(values, np.arange(num_structures + 1))
    if inside.all():
        return values.astype(np.uint8)
    others = np.unique(values[~inside])
    named = ", ".join(f"{value:g}" for value in others[:MAX_NAMED].tolist())
    more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
    reason = f"mask with the values {named}{more}; only 0 to {num_structures} stand for something"
    return Finding(path, "inconsistent", reason)


def _read_outline(case: Case, size: tuple[int, int]) -> tuple[np.ndarray | None, list[Finding]]:
    outline = case.outline or ()
    if len(outline) < 3 or not all(math.isfinite(number) for point in outline for number in point):
        return None, [Finding(case.path, "inconsistent", f"outline of {case.key} is not a polygon of finite numbers")]
    mask = part_of(fill_outline(outline, size), case.box)
    return mask, [] if mask.any() else [Finding(case.path, "note", f"outline of {case.key} lies outside the image")]


def fill_outline(outline: Sequence[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """Fill a closed polygon with 1.

    Coordinates name pixels' centres, (0, 0) the first pixel's, and are rounded to whole pixels; pixels under the
    outline belong to the inside. A square from 2 to 5 thus covers 4 x 4 pixels, where its area is 3 x 3.

    Args:
        outline: Points (x, y) in pixels; what lies outside the image is cut off.
        size: Height and width of the mask.
    """
    mask = np.zeros(size, np.uint8)
    points = np.rint(np.asarray(outline, np.float64)).clip(-(2**15), 2**15).astype(np.int32)  # (P, 2)
    cv2.fillPoly(mask, [points], 1)
    return mask
