"""The attributes that are read at all, and values of them that damage cannot turn into an exception."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID

MAX_NUMBER = 1e15  # beyond it, a value is damage

# Descriptions that tell the exam, in the order in which a person would look at them.
DESCRIPTIONS = (
    "SeriesDescription",
    "ProtocolName",
    "PerformedProcedureStepDescription",
    "RequestedProcedureDescription",
    "StudyDescription",
)
CODE_SEQUENCES = (
    "AnatomicRegionSequence",
    "PrimaryAnatomicStructureSequence",
    "PerformedProtocolCodeSequence",
    "RequestedProcedureCodeSequence",
    "ProcedureCodeSequence",
)
EXAM = ("BodyPartExamined", "ImageType", "ProcessingFunction", *DESCRIPTIONS, *CODE_SEQUENCES)

# Names, dates, institutions and private attributes are not in this list: they are skipped on reading.
KEPT_TAGS = (
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "Modality", "BurnedInAnnotation"),
    *("PatientID", "IssuerOfPatientID", "RequestAttributesSequence", *EXAM),
    *("SequenceOfUltrasoundRegions", "PixelSpacing", "TransducerData", "TransducerType"),
    *("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate", "FrameIncrementPointer"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth"),
    *("RescaleSlope", "RescaleIntercept", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's remarks, which quote values, from the terminal and from logs."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def texts(header: Dataset, keyword: str) -> tuple[str, ...]:
    """Return an attribute's values as stripped text without the empty ones, none where it is missing or damaged."""
    return tuple(filter(None, places(header, keyword)))


def places(header: Dataset, keyword: str) -> tuple[str, ...]:
    """Return an attribute's values as stripped text, each in its place, "" for an empty one."""
    value = _value(header, keyword)
    values = value if isinstance(value, MultiValue | list | tuple) else (value,)
    return tuple("" if item is None else str(item).strip(" \0") for item in values)


def text(header: Dataset, keyword: str) -> str:
    """Return an attribute's first value as stripped text, "" where there is none."""
    return next(iter(texts(header, keyword)), "")


def numbers(header: Dataset, keyword: str) -> tuple[Fraction, ...]:
    """Return an attribute's values that are numbers, exactly as written."""
    return tuple(number for item in texts(header, keyword) if (number := _fraction(item)) is not None)


def number(header: Dataset, keyword: str) -> float | None:
    """Return an attribute's first value as a number, None where there is none."""
    return next((float(value) for value in numbers(header, keyword)), None)


def integer(header: Dataset, keyword: str, default: int = 0) -> int:
    """Return an attribute's first value as a whole number."""
    return next((int(value) for value in numbers(header, keyword)), default)


def items(header: Dataset, keyword: str) -> Iterator[Dataset]:
    """Yield the items of a sequence, none where it is missing or damaged."""
    value = _value(header, keyword)
    if isinstance(value, Sequence):
        yield from value


def uid_name(uid: str) -> str:
    """Return a registered UID's name, "" for any other: a private one may tell where it comes from."""
    with quiet_pydicom():
        name = UID(uid).name
    return "" if name == uid else name


def codes(header: Dataset, keyword: str) -> Iterator[tuple[str, str, str]]:
    """Yield (scheme, value, meaning) of a code sequence, with the older names of SNOMED RT as `SRT`."""
    for item in items(header, keyword):
        scheme = text(item, "CodingSchemeDesignator").upper()
        yield ("SRT" if scheme in ("SNM3", "99SDM") else scheme), text(item, "CodeValue"), text(item, "CodeMeaning")


def _value(header: Dataset, keyword: str) -> Any:
    try:
        with quiet_pydicom():
            return header.get(keyword)
    except Exception:  # pydicom converts on access, and a damaged value makes it raise nearly anything
        return None


def _fraction(item: str) -> Fraction | None:
    try:
        size = abs(float(item))
        # Written out, 1e-9999999 would take minutes.
        return None if not size < MAX_NUMBER else Fraction(item) if size > 1 / MAX_NUMBER else Fraction(0)
    except ValueError:
        return None
