"""Finds DICOM objects and opens them; what is no readable ultrasound object is told by a reason without its values.

Reasons travel to logs and to files beside the shards. They are put together from fixed words: the text of an exception
may quote a patient's name.
"""

import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from arl_lightning.data.dicom.header import KEPT_TAGS, integer, quiet_pydicom, text, uid_name
from arl_lightning.data.media import UnreadableError
from arl_lightning.errors import UserError

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
DEFLATED_IN_MEMORY = 2**26  # a larger deflated object is inflated into an unnamed temporary file
MAX_INFLATED = 2**34
READ_BYTES = 2**20
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


def find_objects(root: Path) -> Iterator[str]:
    """List the files of an archive, sorted within each folder, as paths relative to `base_folder(root)`.

    Args:
        root: A folder, all of whose files count but hidden ones and any DICOMDIR, or a DICOMDIR, whose records count.

    Raises:
        UserError: If the root is missing or cannot be read.
    """
    if root.is_file():
        return _listed(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --root names the archive's folder or its DICOMDIR")
    return _walk(root)


def base_folder(root: Path) -> Path:
    """Return the folder that an archive's paths are relative to."""
    return root.parent if root.is_file() else root


def _walk(root: Path) -> Iterator[str]:
    for folder, subfolders, names in os.walk(root, onerror=_refuse_folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.upper() != "DICOMDIR":
                yield Path(folder, name).relative_to(root).as_posix()


def _refuse_folder(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); grant access to it") from error


def _listed(dicomdir: Path) -> Iterator[str]:
    try:
        with quiet_pydicom():
            records = dcmread(dicomdir, specific_tags=["DirectoryRecordSequence"]).DirectoryRecordSequence
            named = [record.ReferencedFileID for record in records if record.get("ReferencedFileID")]
    except Exception as error:  # a damaged DICOMDIR makes pydicom raise nearly anything
        raise UserError(
            f"{dicomdir}: not a DICOMDIR ({type(error).__name__}); --root names a DICOMDIR or a folder of objects"
        ) from None
    paths = {str(PurePosixPath(*([parts] if isinstance(parts, str) else parts))) for parts in named}
    return iter(sorted(_inside(dicomdir.parent, path) for path in paths))


def _inside(folder: Path, path: str) -> str:
    """Return a record's path as it is spelt on this disk; media of ISO 9660 are often mounted in lower case."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise UserError(f"{folder / 'DICOMDIR'}: names files outside of its folder; --root the objects' folder instead")
    return path if (folder / path).exists() or not (folder / path.lower()).exists() else path.lower()


@contextmanager
def open_object(path: Path, secondary_capture: bool = False) -> Iterator[DicomObject]:
    """Open an ultrasound object without reading its pixels.

    Raises:
        UnreadableError: If it is none, with the reason.
    """
    with _open(path) as file:
        syntax = _transfer_syntax(file)
        if syntax == DeflatedExplicitVRLittleEndian:
            with _inflated(file) as inflated:
                yield _read_object(inflated, ExplicitVRLittleEndian, secondary_capture)
        else:
            yield _read_object(file, syntax, secondary_capture)


def reason_of(error: Exception) -> str:
    """Return why an object cannot be read, without the text of an exception that is not ours: it may quote a patient.

    Raises:
        UserError: If the error is one; it is not about the object.
    """
    if isinstance(error, UserError):
        raise error
    return str(error) if isinstance(error, UnreadableError) else f"damaged ({type(error).__name__})"


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UnreadableError("missing" if isinstance(error, FileNotFoundError) else "cannot be opened") from None
    with file:
        yield file


def _transfer_syntax(file: BinaryIO) -> UID | None:
    """Return the transfer syntax, None for an object without file meta information, and stand at the file's begin."""
    start = file.read(132)
    file.seek(0)
    if not start:
        raise UnreadableError("empty file")
    if CMS_ENVELOPED in start[:32]:
        raise UnreadableError("encrypted (CMS envelope)")
    if start[128:] == b"DICM":
        syntax = text(_file_meta(file), "TransferSyntaxUID")
        if not uid_name(syntax):  # none, or a maker's own, who alone knows where its header ends
            raise UnreadableError("transfer syntax unknown: not supported")
        return UID(syntax)
    # Objects from before DICOM's file format begin with an attribute of group 0008, in little or big endian.
    if start[:2] not in (b"\x08\x00", b"\x00\x08"):
        raise UnreadableError("not DICOM")
    return None


def _file_meta(file: BinaryIO) -> Dataset:
    try:
        with quiet_pydicom():
            return read_file_meta_info(file.name)
    except Exception as error:  # damage surfaces as many types, and their texts quote values
        raise UnreadableError(f"damaged header ({type(error).__name__})") from None


@contextmanager
def _inflated(file: BinaryIO) -> Iterator[BinaryIO]:
    """Inflate what follows the file meta information, piece by piece."""
    # 128 bytes of preamble, "DICM", and the 12 bytes of the group length, which counts what follows it.
    file.seek(128 + 4 + 12 + integer(_file_meta(file), "FileMetaInformationGroupLength"))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    with tempfile.SpooledTemporaryFile(DEFLATED_IN_MEMORY) as inflated:
        try:
            while piece := file.read(READ_BYTES):
                while piece and not inflater.eof:
                    inflated.write(inflater.decompress(piece, READ_BYTES))
                    piece = inflater.unconsumed_tail
                    if inflated.tell() > MAX_INFLATED:
                        raise UnreadableError("deflated to more than 16 GiB")
            inflated.write(inflater.flush())
        except zlib.error:
            raise UnreadableError("damaged deflate stream") from None
        if not inflater.eof:
            raise UnreadableError("truncated")
        inflated.seek(0)
        yield cast(BinaryIO, inflated)


def _read_object(file: BinaryIO, syntax: UID | None, secondary_capture: bool) -> DicomObject:
    file.seek(0)
    try:
        with quiet_pydicom():
            header = dcmread(
                file, stop_before_pixels=True, force=True, defer_size=DEFER_BYTES, specific_tags=list(KEPT_TAGS)
            )
    except Exception as error:  # as above
        raise UnreadableError(f"damaged header ({type(error).__name__})") from None
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
