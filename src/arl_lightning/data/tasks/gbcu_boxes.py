"""Reads the boxes that radiologists drew into the images of GBCU, and crops cases to those around the gallbladder."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from arl_lightning.data.media import IMAGE_FORMATS, quiet_pillow, refuse_machine_failure
from arl_lightning.data.sources.gbcu import WHERE
from arl_lightning.data.tasks.case import Box, Case, Finding
from arl_lightning.data.wording import one_line
from arl_lightning.errors import UserError

REGIONS = ("nml", "abn")  # labels of the large box around a normal and an abnormal gallbladder; others are of lesions
FORM = '{"im00001.jpg": {"dim": [640, 480], "bbs": [["nml", [x0, y0, x1, y1]]]}}'
FAR = 1e6  # pixels: no image is as wide


def crop_to_boxes(cases: Iterable[Case], path: Path, margin: float) -> tuple[list[Case], list[Finding]]:
    """Give each case the box around its image's gallbladder; what has none that can be used becomes a finding.

    Args:
        cases: Of images whose names are those in the file. An image whose size cannot be read is left as it is: whoever
            decodes it finds the damage.
        path: `bbox_annot.json`.
        margin: What is added on each side, as a share of the box's width or height.

    Raises:
        UserError: If the file is missing or not of its form: a training that went on would see whole images.
    """
    annotated = _read(path)
    cropped, findings = [], []
    for case in cases:
        size = _size(case.path)
        box = None if size is None else _region(annotated.get(case.path.name), size, margin)
        if isinstance(box, str):
            fix = f"correct it in {path.name}, or use whole images by --options.crop none"
            findings.append(Finding(case.path, "inconsistent", f"{path.name} {box}; {fix}"))
        cropped.append(replace(case, box=box) if isinstance(box, tuple) else case)
    return cropped, findings


def _read(path: Path) -> dict[str, Any]:
    fix = f"copy it from GBCU again ({WHERE}), or use whole images by --options.crop none"
    if not path.is_file():
        raise UserError(f"{path}: missing; {fix}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); {fix}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not of the form {FORM}; {fix}")
    return content


def _size(path: Path) -> tuple[int, int] | None:
    """Return an image's width and height as its header says, None where it is damaged."""
    try:
        with quiet_pillow(), Image.open(path, formats=IMAGE_FORMATS) as image:
            return image.size
    except Exception as error:  # damage surfaces as many types, as when pixels are decoded
        refuse_machine_failure(error)
        return None


def _region(entry: Any, size: tuple[int, int], margin: float) -> Box | str:
    """Return the enlarged union of an image's boxes around the gallbladder, or what the file does wrong."""
    width, height = size
    boxes = _drawn(entry)
    if isinstance(boxes, str):
        return boxes
    if entry.get("dim", [width, height]) != [width, height]:
        return f"is for an image of {one_line(str(entry['dim'])[:60])} pixels, this has [{width}, {height}]"
    x0, y0 = min(box[0] for box in boxes), min(box[1] for box in boxes)
    x1, y1 = max(box[2] for box in boxes), max(box[3] for box in boxes)
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        return f"has the box {x0:g}, {y0:g}, {x1:g}, {y1:g} for it, outside its {width}x{height} pixels"
    across, down = margin * (x1 - x0), margin * (y1 - y0)
    near = max(0, round(x0 - across)), max(0, round(y0 - down))
    return *near, min(width, round(x1 + across)), min(height, round(y1 + down))


def _drawn(entry: Any) -> list[list[float]] | str:
    """Return an image's boxes around the gallbladder, or what is wrong with them."""
    if entry is None:
        return "does not name it"
    try:
        boxes = [box for label, box in entry["bbs"] if str(label).strip().lower() in REGIONS]
    except (KeyError, TypeError, ValueError):
        return f"describes it in another form than {FORM}"
    for box in boxes:
        if not _is_box(box):
            return f"has the box {one_line(str(box)[:60])} for it, not four numbers with x0 < x1 and y0 < y1"
    return boxes or f"has no box labelled {' or '.join(REGIONS)} for it"


def _is_box(box: Any) -> bool:
    """Tell whether this is a box; NaN, which compares as false, is none."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        return False
    return all(abs(value) < FAR for value in box) and box[0] < box[2] and box[1] < box[3]
