"""Reads what a compressed frame says of itself, before a decoder believes it.

A decoder allocates, and some of them write, what the frame's own header asks for. A frame that differs from its object
is damage, a decompression bomb, or somebody else's.
"""

import struct
from typing import NamedTuple

from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from arl_lightning.data.media import UnreadableError

# JPEG, JPEG-LS: the frame headers SOF 0 to 15 and 55 (ISO/IEC 10918-1 B.1.1.3, 14495-1 C.2.2) are all markers FFCx but
# DHT, JPG and DAC, and FFF7.
FRAME_HEADERS = (*(code for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC)), 0xF7)
ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a segment
SOC_SIZ = b"\xff\x4f\xff\x51"  # begin of a JPEG 2000 codestream (ISO/IEC 15444-1 A.4.1, A.5.1)
JP2_SIGNATURE = bytes.fromhex("0000000c6a5020200d0a870a")  # of a file around it, which DICOM does not want


class Extent(NamedTuple):
    """Rows, columns, components and bits of a component."""

    height: int
    width: int
    components: int
    precision: int


def check_codestream(encoded: bytes, syntax: UID, expected: Extent) -> None:
    """Refuse a frame whose own header differs from its object's; RLE has none.

    Raises:
        UnreadableError: If it differs, or no header is found.
    """
    if syntax in JPEG2000TransferSyntaxes:
        found = _jpeg_2000(encoded)
    elif syntax in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
        found = _jpeg(encoded)
    else:
        return
    if found is None:
        raise UnreadableError("damaged frame (no codestream header)")
    for what, own, stated in zip(("height", "width", "components", "precision"), found, expected, strict=True):
        if own != stated:
            raise UnreadableError(f"damaged frame (its {what} differs from the header's)")


def _jpeg(encoded: bytes) -> Extent | None:
    """Read the first frame header of JPEG or JPEG-LS."""
    if encoded[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 4 <= len(encoded) and encoded[place] == 0xFF:
        code = encoded[place + 1]
        if code == 0xFF:  # fill
            place += 1
        elif code in ALONE:
            place += 2
        elif code in FRAME_HEADERS:
            head = encoded[place + 4 : place + 10]
            if len(head) < 6:
                return None
            precision, height, width, components = struct.unpack(">BHHB", head)
            return Extent(height, width, components, precision)
        else:
            place += 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
    return None


def _jpeg_2000(encoded: bytes) -> Extent | None:
    """Read the SIZ segment of a codestream, or of the first one in a JP2 file."""
    start = _codestream_start(encoded) if encoded.startswith(JP2_SIGNATURE) else 0
    head = encoded[start : start + 43]
    if len(head) < 43 or not head.startswith(SOC_SIZ):
        return None
    right, bottom, left, top = struct.unpack(">4L", head[8:24])
    components, depth = struct.unpack(">HB", head[40:43])
    return Extent(bottom - top, right - left, components, (depth & 0x7F) + 1)


def _codestream_start(encoded: bytes) -> int:
    """Walk through a JP2 file's boxes (ISO/IEC 15444-1 I.4) to its codestream; the file's end where there is none."""
    place = 0
    while place + 8 <= len(encoded):
        length, kind = struct.unpack(">L4s", encoded[place : place + 8])
        if kind == b"jp2c":
            return place + (16 if length == 1 else 8)
        if length < 8:  # to the end, or longer than 4 GiB
            break
        place += length
    return len(encoded)
