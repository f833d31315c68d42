"""Reads SequenceOfUltrasoundRegions (PS3.3 C.8.5.5): which rectangles of a picture are ultrasound, and of what kind."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from pydicom.dataset import Dataset

from arl_lightning.data.dicom.header import integer, items, number, numbers, places

# Region Spatial Format (0018,6012)
TWO_DIMENSIONAL, SPECTRAL = 1, 3
# Region Data Type (0018,6014)
TISSUE, COLOUR_FLOW, PW_SPECTRAL, CW_SPECTRAL, INTEGRATED_BACKSCATTER = 1, 2, 3, 4, 15
CENTIMETRES = 3  # Physical Units X and Y Direction

# Bits of value 4 of Image Type (C.8.5.6.1.1): CW, PW and colour Doppler, colour M-mode, colour power mode.
DOPPLER_MODES = 0x0004 | 0x0008 | 0x0010 | 0x0020 | 0x0100

TOLERANCE = 2  # pixels by which scanners count a right or lower edge too far
WHOLE_SHARE = 0.97  # of height and of width; larger regions say nothing about where the banner is
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
        num_stated: Regions of all kinds.
        trusted: False where the regions cannot be those of this picture, or cover all of it.
    """

    kept: tuple[Region, ...]
    num_stated: int
    trusted: bool


def read_regions(header: Dataset, height: int, width: int) -> Regions:
    """Return an object's regions, clipped to the picture; those without pixels are dropped, reversed ones turned.

    A region that ends beyond the picture belongs to a picture of another size: a viewer scaled or cut it and kept the
    header. Where such a region is, none is trusted.
    """
    stated = list(items(header, "SequenceOfUltrasoundRegions"))
    boxes = [_read_box(item) for item in stated]
    inside = all(box.bottom <= height + TOLERANCE and box.right <= width + TOLERANCE for box in boxes)
    regions = []
    for item, box in zip(stated, boxes, strict=True):
        kind = _kind(item)
        clipped = Box(max(box.top, 0), max(box.left, 0), min(box.bottom, height), min(box.right, width))
        if kind and clipped.top < clipped.bottom and clipped.left < clipped.right:
            two_dimensional = integer(item, "RegionSpatialFormat") == TWO_DIMENSIONAL
            regions.append(Region(clipped, kind, _spacing(item), two_dimensional))
    whole = any(
        box.bottom - box.top >= WHOLE_SHARE * height and box.right - box.left >= WHOLE_SHARE * width
        for box in (region.box for region in regions)
    )
    return Regions(_with_overlaps(regions), len(stated), inside and not whole)


def is_doppler(header: Dataset) -> bool:
    """Tell whether Image Type states a Doppler mode, for objects whose regions say nothing."""
    modes = places(header, "ImageType")[3:4]
    try:
        return bool(modes and int(modes[0], 16) & DOPPLER_MODES)
    except ValueError:  # some scanners write a word there
        return False


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


def _read_box(item: Dataset) -> Box:
    """Read a location; both of its ends are pixels of the region."""
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
