"""Opens DICOM objects; what is no readable ultrasound object is told by a reason without its values."""

import math
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from arl_lightning.data.dicom.failures import unreadable
from arl_lightning.data.dicom.header import KEPT_TAGS, integer, quiet_pydicom, text, uid_name
from arl_lightning.data.dicom.inflate import Inflated
from arl_lightning.data.media import UnreadableError, is_of_machine

ULTRASOUND_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.6.1",  # Ultrasound Image Storage
    "1.2.840.10008.5.1.4.1.1.3.1",  # Ultrasound Multi-frame Image Storage
    "1.2.840.10008.5.1.4.1.1.6",  # the two of them before 1995, retired
    "1.2.840.10008.5.1.4.1.1.3",
)
SECONDARY_CAPTURE_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture, then its multi-frame kinds: grey bytes, grey words, colour
    "1.2.840.10008.5.1.4.1.1.7.2",
    "1.2.840.10008.5.1.4.1.1.7.3",
    "1.2.840.10008.5.1.4.1.1.7.4",
)
OTHER_MODALITIES = (
    *("CR", "CT", "DX", "ECG", "ES", "IVUS", "KO", "MG", "MR", "NM", "OT", "PR", "PT", "PX", "RF", "RTSTRUCT"),
    *("SEG", "SR", "XA", "XC"),
)

CMS_ENVELOPED = bytes.fromhex("06092a864886f70d010703")  # the object identifier 1.2.840.113549.1.7.3
DEFER_BYTES = 2**20  # larger values stay in the file; a palette has up to 128 KiB
MAX_DEFLATED_HEADER = 2**26  # bytes that are inflated in the search of a header's end
PREAMBLE = 128  # bytes before "DICM"
META_GROUP = 0x0002
UNDEFINED_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True)
class PixelElement:
    """Where an object's pixel data begins in its file, its length in bytes (None for encapsulated frames), its VR."""

    start: int
    length: int | None
    vr: str


@dataclass(frozen=True)
class DicomObject:
    """An opened object: the attributes that are needed, the file, how it is encoded, and its pixel data."""

    header: Dataset
    file: BinaryIO
    transfer_syntax: UID
    pixel_data: PixelElement


@contextmanager
def open_object(path: Path, secondary_capture: bool = False) -> Iterator[DicomObject]:
    """Open an ultrasound object without reading its pixels.

    Raises:
        UnreadableError: If it is none, with the reason.
    """
    with _open(path) as file:
        syntax, start = _transfer_syntax(file)
        if syntax != DeflatedExplicitVRLittleEndian:
            file.seek(0)
            yield _read_object(file, syntax, secondary_capture)
            return
        file.seek(start)
        with Inflated(file) as inflated:
            yield _read_deflated(inflated, secondary_capture)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would let nobody go on
            raise UnreadableError("not a file")
        file = path.open("rb")
    except OSError as error:
        if is_of_machine(error):
            raise
        raise UnreadableError("missing" if isinstance(error, FileNotFoundError) else "cannot be opened") from None
    with file:
        yield file


def _transfer_syntax(file: BinaryIO) -> tuple[UID | None, int]:
    """Return the transfer syntax, None for an object without file meta information, and where that information ends."""
    start = file.read(PREAMBLE + 4)
    if not start:
        raise UnreadableError("empty file")
    if CMS_ENVELOPED in start[:32]:
        raise UnreadableError("encrypted (CMS envelope)")
    meta = PREAMBLE + 4 if start[PREAMBLE:] == b"DICM" else 0
    # Some objects have lost their preamble. Those from before DICOM's file format have no file meta information
    # either: they begin with an attribute of group 0008, in little or big endian.
    if not meta and start[:2] in (b"\x08\x00", b"\x00\x08"):
        return None, 0
    if not meta and start[:2] != b"\x02\x00":
        raise UnreadableError("not DICOM")
    file.seek(meta)
    information = _file_meta(file)
    syntax = text(information, "TransferSyntaxUID")
    if not uid_name(syntax):  # none, or a maker's own, who alone knows where its header ends
        raise UnreadableError("transfer syntax unknown: not supported")
    # The group length, an element of 12 bytes, counts what follows it.
    return UID(syntax), meta + 12 + integer(information, "FileMetaInformationGroupLength")


def _file_meta(file: BinaryIO) -> Dataset:
    try:
        with quiet_pydicom():
            return read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != META_GROUP)
    except Exception as error:  # damage surfaces as many types, and their texts quote values
        raise unreadable(error, "damaged header") from None


def _read_deflated(inflated: Inflated, secondary_capture: bool) -> DicomObject:
    """Inflate the header, then the pixels that it states: a stream may hold a thousand times its size."""
    inflated.inflate(MAX_DEFLATED_HEADER)
    inflated.file.seek(0)
    source = _read_object(inflated.file, ExplicitVRLittleEndian, secondary_capture)
    inflated.inflate(source.pixel_data.start + min(source.pixel_data.length or 0, _stated_bytes(source.header)))
    return source


def _stated_bytes(header: Dataset) -> int:
    """Return how many bytes of pixels a header states."""
    keywords = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames")
    return math.prod(max(integer(header, keyword, 1), 1) for keyword in keywords) // 8


def _read_object(file: BinaryIO, syntax: UID | None, secondary_capture: bool) -> DicomObject:
    try:
        with quiet_pydicom():
            header = dcmread(
                file, stop_before_pixels=True, force=True, defer_size=DEFER_BYTES, specific_tags=list(KEPT_TAGS)
            )
    except Exception as error:  # as above
        raise unreadable(error, "damaged header") from None
    syntax = syntax or _guessed_syntax(header)
    _check_class(header, secondary_capture)
    return DicomObject(header, file, syntax, _find_pixel_data(file, header, syntax))


def _guessed_syntax(header: Dataset) -> UID:
    implicit, little_endian = header.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def _check_class(header: Dataset, secondary_capture: bool) -> None:
    sop_class, modality = text(header, "SOPClassUID"), text(header, "Modality").upper()
    if not sop_class and not modality:
        raise UnreadableError("damaged header (states no kind of object)")
    if modality not in ("", "US"):
        raise UnreadableError(f"modality {modality if modality in OTHER_MODALITIES else 'unknown'}, not US")
    if sop_class in ULTRASOUND_CLASSES:
        return
    if sop_class in SECONDARY_CAPTURE_CLASSES and modality == "US":
        if secondary_capture:
            return
        raise UnreadableError("secondary capture (option secondary_capture)")
    raise UnreadableError(f"SOP class {uid_name(sop_class) or 'unknown'}, not an ultrasound image")


def _find_pixel_data(file: BinaryIO, header: Dataset, syntax: UID) -> PixelElement:
    """Read the pixel data's tag and length; the file stands at the first of them, or at its end."""
    end = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(end)
    start = file.read(12)
    if len(start) < 8:
        raise UnreadableError("truncated" if end > size or start or _is_cut(header) else "no pixel data")
    order = "<" if syntax.is_little_endian else ">"
    group, element = struct.unpack(f"{order}HH", start[:4])
    if (group, element) != (0x7FE0, 0x0010):
        raise UnreadableError("pixel data of floating-point numbers" if group == 0x7FE0 else "no pixel data")
    explicit = not syntax.is_implicit_VR
    if explicit and len(start) < 12:
        raise UnreadableError("truncated")
    length = struct.unpack(f"{order}L", start[8:12] if explicit else start[4:8])[0]
    if length == 0:
        raise UnreadableError("empty pixel data")
    vr = start[4:6].decode("ascii", "replace") if explicit else "OW"
    return PixelElement(end + (12 if explicit else 8), None if length == UNDEFINED_LENGTH else length, vr)


def _is_cut(header: Dataset) -> bool:
    """Tell whether a value is shorter than it says."""
    unconverted = (header.get_item(tag) for tag in header.keys())  # noqa: SIM118 - iterating the header converts
    return any(
        isinstance(item.value, bytes) and len(item.value) < getattr(item, "length", 0) < UNDEFINED_LENGTH
        for item in unconverted
    )
