"""Reads SequenceOfUltrasoundRegions (PS3.3 C.8.5.5): which rectangles of a picture are ultrasound, and of what kind."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from arl_lightning.data.dicom.header import integer, items, number, numbers, places

# Region Spatial Format (0018,6012)
TWO_DIMENSIONAL, SPECTRAL = 1, 3
# Region Data Type (0018,6014)
TISSUE, COLOUR_FLOW, PW_SPECTRAL, CW_SPECTRAL, INTEGRATED_BACKSCATTER = 1, 2, 3, 4, 15
CENTIMETRES = 3  # Physical Units X and Y Direction

# Bits of value 4 of Image Type (C.8.5.6.1.1): CW, PW and colour Doppler, colour M-mode, colour power mode.
DOPPLER_MODES = 0x0004 | 0x0008 | 0x0010 | 0x0020 | 0x0100
M_MODE = 0x0002
MODES = re.compile("0[0-9A-F]{3}|[0-9]{4}")  # some scanners write a word there, such as FACE
LOW_PRIORITY = 0x1  # bit of Region Flags: other regions lie above this one

TOLERANCE = 2  # pixels by which scanners count a right or lower edge too far
WHOLE_SHARE = 0.97  # of height and of width; regions that span more say nothing about where the banner is,
COVERED_SHARE = 0.9  # if they cover this share of the screen
SPACING_AGREEMENT = 0.01  # relative


class Kind(Enum):
    """What a region shows; only these two are packed."""

    B_MODE = "b_mode"
    DOPPLER = "doppler"


class Box(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right` of a picture, the ends not included."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Return the index of the box in an image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def within(self, outer: "Box") -> tuple[slice, slice]:
        """Return the index of the box in an image of another that it overlaps."""
        top, left = max(self.top - outer.top, 0), max(self.left - outer.left, 0)
        return slice(top, self.bottom - outer.top), slice(left, self.right - outer.left)

    def overlaps(self, other: "Box") -> bool:
        """Tell whether the two share a pixel."""
        return max(self.top, other.top) < min(self.bottom, other.bottom) and max(self.left, other.left) < min(
            self.right, other.right
        )


@dataclass(frozen=True)
class Region:
    """A rectangle of ultrasound.

    Attributes:
        box: Where it is.
        kind: What it shows.
        spacing_mm: Height and width of its pixels, None where unknown.
        two_dimensional: A picture, not a spectrum over time.
    """

    box: Box
    kind: Kind
    spacing_mm: tuple[float, float] | None
    two_dimensional: bool = True


@dataclass(frozen=True)
class Regions:
    """What an object says of its regions.

    Attributes:
        kept: B-mode and Doppler regions, in their order.
        removed: Where regions of other kinds may cover them.
        num_stated: Regions of all kinds.
        trusted: False where the regions cannot be those of this picture, or those that are kept cover all of it.
    """

    kept: tuple[Region, ...]
    removed: tuple[Box, ...]
    num_stated: int
    trusted: bool


def read_regions(header: Dataset, height: int, width: int) -> Regions:
    """Return an object's regions, clipped to the picture; those without pixels are dropped, reversed ones turned.

    A region that ends beyond the picture belongs to a picture of another size: a viewer scaled or cut it and kept the
    header. Where such a region is, or one whose location is missing, none is trusted.
    """
    stated = list(items(header, "SequenceOfUltrasoundRegions"))
    located = [(item, box) for item in stated if (box := _read_box(item)) is not None]
    inside = all(box.bottom <= height + TOLERANCE and box.right <= width + TOLERANCE for _, box in located)
    kept, removed = [], []
    for item, box in located:
        kind = _kind(item)
        clipped = Box(max(box.top, 0), max(box.left, 0), min(box.bottom, height), min(box.right, width))
        if clipped.top >= clipped.bottom or clipped.left >= clipped.right:
            continue
        if kind is not None:
            two_dimensional = integer(item, "RegionSpatialFormat") == TWO_DIMENSIONAL
            kept.append(Region(clipped, kind, _spacing(item), two_dimensional))
        elif not integer(item, "RegionFlags") & LOW_PRIORITY:
            removed.append(clipped)
    trusted = inside and len(located) == len(stated) and not _covers([region.box for region in kept], height, width)
    return Regions(_with_overlaps(kept), tuple(removed), len(stated), trusted)


def is_doppler(header: Dataset) -> bool:
    """Tell whether Image Type states a Doppler mode, for objects whose regions say nothing."""
    return bool(_modes(header) & DOPPLER_MODES)


def is_m_mode(header: Dataset) -> bool:
    """Tell whether Image Type states M-mode."""
    return bool(_modes(header) & M_MODE)


def _modes(header: Dataset) -> int:
    """Return value 4 of Image Type, 0 where it is none."""
    stated = "".join(places(header, "ImageType")[3:4]).upper()
    return int(stated, 16) if MODES.fullmatch(stated) else 0


def bounding_box(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around others."""
    return Box(
        min(box.top for box in boxes),
        min(box.left for box in boxes),
        max(box.bottom for box in boxes),
        max(box.right for box in boxes),
    )


def _covers(boxes: Sequence[Box], height: int, width: int) -> bool:
    """Tell whether boxes together cover a screen."""
    if not boxes:
        return False
    around = bounding_box(boxes)
    if around.bottom - around.top < WHOLE_SHARE * height or around.right - around.left < WHOLE_SHARE * width:
        return False
    covered = np.zeros((height, width), bool)
    for box in boxes:
        covered[box.slices] = True
    return bool(covered.mean() >= COVERED_SHARE)


def common_spacing(regions: Sequence[Region]) -> tuple[float, float] | None:
    """Return the regions' pixel size in mm if they agree on it."""
    known = [region.spacing_mm for region in regions]
    first = known[0] if known else None
    if first is None:
        return None
    agree = all(
        other is not None and all(abs(a - b) <= SPACING_AGREEMENT * a for a, b in zip(first, other, strict=True))
        for other in known
    )
    return first if agree else None


def stated_spacing(header: Dataset) -> tuple[float, float] | None:
    """Return Pixel Spacing (row, column) in mm, for objects without regions."""
    spacing = numbers(header, "PixelSpacing")
    return _rounded(float(spacing[0]), float(spacing[1])) if len(spacing) == 2 else None


def _read_box(item: Dataset) -> Box | None:
    """Read a location, None where a part of it is missing; both of its ends are pixels of the region."""
    keywords = ("RegionLocationMinX0", "RegionLocationMaxX1", "RegionLocationMinY0", "RegionLocationMaxY1")
    if not all(numbers(item, keyword) for keyword in keywords):
        return None
    left, right = sorted((integer(item, "RegionLocationMinX0"), integer(item, "RegionLocationMaxX1")))
    top, bottom = sorted((integer(item, "RegionLocationMinY0"), integer(item, "RegionLocationMaxY1")))
    # Equal ends are a region without extent, not one of a single pixel.
    return Box(top, left, bottom + (top < bottom), right + (left < right))


def _kind(item: Dataset) -> Kind | None:
    space, data = integer(item, "RegionSpatialFormat"), integer(item, "RegionDataType")
    if space == TWO_DIMENSIONAL and data in (TISSUE, INTEGRATED_BACKSCATTER):
        return Kind.B_MODE
    if (space == TWO_DIMENSIONAL and data == COLOUR_FLOW) or (space == SPECTRAL and data in (PW_SPECTRAL, CW_SPECTRAL)):
        return Kind.DOPPLER
    return None


def _with_overlaps(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Call B-mode under a colour box Doppler: its pixels are coloured."""
    doppler = [region.box for region in regions if region.kind is Kind.DOPPLER]
    return tuple(
        replace(region, kind=Kind.DOPPLER) if any(region.box.overlaps(box) for box in doppler) else region
        for region in regions
    )


def _spacing(item: Dataset) -> tuple[float, float] | None:
    units = integer(item, "PhysicalUnitsXDirection"), integer(item, "PhysicalUnitsYDirection")
    row, column = number(item, "PhysicalDeltaY"), number(item, "PhysicalDeltaX")
    if units != (CENTIMETRES, CENTIMETRES) or row is None or column is None:
        return None
    return _rounded(abs(row) * 10, abs(column) * 10)


def _rounded(row: float, column: float) -> tuple[float, float] | None:
    """Keep four digits: more would tell one scan's depth setting from all others."""
    if not (1e-4 < row < 100 and 1e-4 < column < 100):
        return None
    return float(f"{row:.4g}"), float(f"{column:.4g}")
