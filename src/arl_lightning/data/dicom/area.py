"""Decides which pixels of an object are kept: ultrasound, and nothing that a scanner wrote beside it.

H rows, W columns of the picture, h and w of a box in it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

from arl_lightning.data.dicom.header import text
from arl_lightning.data.dicom.look import Look
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.dicom.regions import (
    Box,
    Kind,
    Region,
    bounding_box,
    common_spacing,
    is_doppler,
    is_m_mode,
    read_regions,
    stated_spacing,
)
from arl_lightning.data.media import UnreadableError, check_size

M_MODE = "M-mode, and no usable regions"
COVERED = "B-mode or Doppler region that is covered by others"
NOT_SURE = "no usable regions, and the detector is not sure of the outline"
TEXT_DETECTED = "no usable regions, and text within the detected outline"
TEXT_SEEN = "burned-in text seen"
TEXT_STATED = "BurnedInAnnotation is YES"


@dataclass(frozen=True)
class AreaOptions:
    """What is kept; see the fields of `sources/dicom.py: Dicom`."""

    regions: Literal["union", "each"] = "union"
    undetected: Literal["reject", "keep"] = "reject"
    tighten: bool = True
    reject_text: bool = False


@dataclass(frozen=True)
class Area:
    """What one sample keeps of each frame.

    Attributes:
        box: The part that is cut out.
        mask: bool (h, w), True = kept, None for all of the box.
        doppler: Colour or spectral Doppler.
        spacing_mm: Height and width of a pixel, None where unknown.
        origin: Whether the header told it, the detector found it, or everything is kept.
    """

    box: Box
    mask: np.ndarray | None
    doppler: bool
    spacing_mm: tuple[float, float] | None
    origin: Literal["regions", "detected", "whole"]

    def clean(self, image: np.ndarray) -> np.ndarray:
        """Return an image of the box, (h, w) or (h, w, 3), with zeros in place of what is not kept."""
        if self.mask is None:
            return image
        return np.where(self.mask if image.ndim == 2 else self.mask[..., None], image, np.uint8(0))


def find_areas(frames: Frames, header: Dataset, options: AreaOptions, look: Look) -> list[Area]:
    """Return what is kept of an object: one area, or one for each region.

    Raises:
        UnreadableError: If nothing can be kept, with the reason.
    """
    regions = read_regions(header, frames.height, frames.width)
    if regions.kept and regions.trusted:
        groups = [[region] for region in regions.kept] if options.regions == "each" else [list(regions.kept)]
        areas = [_of_regions(group, regions.removed, look, options.tighten) for group in groups]
    elif regions.num_stated and regions.trusted:
        raise UnreadableError("no B-mode or Doppler region")
    else:
        if is_m_mode(header):
            raise UnreadableError(M_MODE)
        doppler = is_doppler(header) or any(region.kind is Kind.DOPPLER for region in regions.kept)
        areas = [_without_regions(frames, header, doppler, look, options.undetected)]
    for area in areas:
        check_size(area.box.bottom - area.box.top, area.box.right - area.box.left)
    if options.reject_text and (flag := text_flag(areas, header, look)):
        raise UnreadableError(flag)
    return areas


def states_text(header: Dataset) -> bool:
    """Tell whether an object says of itself that text is burned in, somewhere on its screen."""
    return text(header, "BurnedInAnnotation").upper() == "YES"


def _of_regions(regions: list[Region], removed: tuple[Box, ...], look: Look, tighten: bool) -> Area:
    union = bounding_box([region.box for region in regions])
    mask = np.zeros((union.bottom - union.top, union.right - union.left), bool)
    for region in regions:
        outline = look.outline(region.box, strict=False) if tighten and region.two_dimensional else None
        mask[region.box.within(union)] |= True if outline is None else outline
    for box in removed:
        if box.overlaps(union):
            mask[box.within(union)] = False
    if not mask.any():
        raise UnreadableError(COVERED)
    doppler = any(region.kind is Kind.DOPPLER for region in regions)
    return _cropped(Area(union, mask, doppler, common_spacing(regions), "regions"))


def _without_regions(
    frames: Frames, header: Dataset, doppler: bool, look: Look, undetected: Literal["reject", "keep"]
) -> Area:
    screen = Box(0, 0, frames.height, frames.width)
    mask = look.outline(screen, strict=True)
    spacing = stated_spacing(header)
    if mask is not None:
        area = _cropped(Area(screen, mask, doppler, spacing, "detected"))
        if not look.shows_text(area.box, area.mask):
            return area
    if undetected == "reject":
        raise UnreadableError(NOT_SURE if mask is None else TEXT_DETECTED)
    return Area(screen, None, doppler, spacing, "whole")


def _cropped(area: Area) -> Area:
    """Cut away rows and columns of which nothing is kept."""
    assert area.mask is not None  # noqa: S101 - told to the type checker; both callers give one
    rows, columns = np.flatnonzero(area.mask.any(1)), np.flatnonzero(area.mask.any(0))
    top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    mask = area.mask[top:bottom, left:right]
    box = Box(area.box.top + top, area.box.left + left, area.box.top + bottom, area.box.left + right)
    return Area(box, None if mask.all() else mask, area.doppler, area.spacing_mm, area.origin)


def text_flag(areas: list[Area], header: Dataset, look: Look) -> str:
    """Return why a person should look for text in what is kept, nothing where neither header nor pixels suggest it."""
    if states_text(header):
        return TEXT_STATED
    return TEXT_SEEN if any(look.shows_text(area.box, area.mask) for area in areas) else ""
