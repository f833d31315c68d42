"""Runs the detectors on single objects of an archive, for the survey and the review sheets.

H rows, W columns of an object's picture.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from arl_lightning.data.dicom.area import Area, find_areas, states_text
from arl_lightning.data.dicom.failures import reason_of
from arl_lightning.data.dicom.look import Look
from arl_lightning.data.dicom.objects import DicomObject, open_object
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.media import UnreadableError
from arl_lightning.data.sources.dicom import Dicom
from arl_lightning.data.sources.source import Unit


@dataclass(frozen=True)
class Glimpse:
    """What the detectors make of one object.

    Attributes:
        picture: uint8 (H, W), a frame as the scanner stored it, None where none could be decoded.
        areas: What is kept, nothing where the object is rejected.
        reason: Why it is rejected, None where it is not.
        text_seen: Text seems to stand in what is kept.
        text_stated: The object says that text is burned in, somewhere on its screen.
    """

    picture: np.ndarray | None = None
    areas: tuple[Area, ...] = ()
    reason: str | None = None
    text_seen: bool = False
    text_stated: bool = False


def glimpse(source: Dicom, unit: Unit) -> Glimpse:
    """Look at a unit with the source's options, but for `reject_text`: text is told and not refused."""
    try:
        with open_object(source.path_of(unit), source.secondary_capture) as opened:
            return _of_object(source, opened)
    except Exception as error:
        return Glimpse(reason=reason_of(error, source.root))


def _of_object(source: Dicom, opened: DicomObject) -> Glimpse:
    frames = Frames(opened)
    look = Look(frames)
    seen = Glimpse(look.images[len(look.images) // 2], text_stated=states_text(opened.header))
    try:
        areas = find_areas(frames, opened.header, replace(source.area_options, reject_text=False), look)
    except UnreadableError as error:
        return replace(seen, reason=str(error))
    return replace(seen, areas=tuple(areas), text_seen=any(look.shows_text(area.box, area.mask) for area in areas))


def drawn(units: Iterable[Unit], number: int | None) -> set[str]:
    """Return the names of `number` units drawn evenly from all (Vitter 1985, algorithm R), of all where it is None."""
    chosen: list[str] = []
    random = np.random.default_rng(0)
    for count, unit in enumerate(units):
        if number is None or len(chosen) < number:
            chosen.append(unit.name)
        elif (place := int(random.integers(0, count + 1))) < number:
            chosen[place] = unit.name
    return set(chosen)
