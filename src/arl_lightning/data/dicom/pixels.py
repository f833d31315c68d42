"""Decodes an object's frames one at a time, and turns what they hold into 8 bits.

H rows, W columns, N entries of a palette. Decoded pixels are (H, W) or (H, W, 3) of the stored depth; rendered ones are
uint8, (H, W) grey or (H, W, 3) RGB.
"""

import os
from typing import Any

import numpy as np
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.uid import UID

from arl_lightning.data.dicom.codestream import Extent, check_codestream
from arl_lightning.data.dicom.decoding import Request, decode_frame
from arl_lightning.data.dicom.encapsulated import Fragment, find_frames, read_fragments
from arl_lightning.data.dicom.failures import unreadable
from arl_lightning.data.dicom.header import integer, number, quiet_pydicom, text
from arl_lightning.data.dicom.helper import decode_apart
from arl_lightning.data.dicom.objects import DicomObject
from arl_lightning.data.media import UnreadableError, check_size, scale_to_8_bit

GREY = ("MONOCHROME1", "MONOCHROME2")
# The partial range (ITU-R BT.601: luma 16..235, chroma 16..240) is retired, and old echo cines hold it.
PARTIAL_RANGE = ("YBR_PARTIAL_422",)
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", *PARTIAL_RANGE)
PALETTE = "PALETTE COLOR"

# The first of these that knows a transfer syntax decodes it, and no other has a try at what that one refuses. GDCM, the
# only one for lossless JPEG, is a C++ library that may end the process over a damaged frame: it gets one of its own.
PLUGINS = ("pydicom", "pylibjpeg", "pyjpegls", "pillow", "gdcm")
APART = ("gdcm",)


class Frames:
    """The frames of one object; only the one that is asked for is ever in memory.

    Args:
        source: An opened object.

    Raises:
        UnreadableError: If the object's pixel data cannot be decoded here, or does not hold all of its frames.
    """

    def __init__(self, source: DicomObject) -> None:
        self._source = source
        header = source.header
        self.height, self.width = integer(header, "Rows"), integer(header, "Columns")
        self.num_frames = max(integer(header, "NumberOfFrames", 1), 1)
        self.photometric = text(header, "PhotometricInterpretation").upper()
        self.bits_stored = integer(header, "BitsStored", 8)
        self._decoder = _decoder(source.transfer_syntax)
        # Uncompressed syntaxes need none.
        self.plugin = next((name for name in PLUGINS if name in self._decoder.available_plugins), "")
        self._options = self._checked_options()
        self._extent = Extent(self.height, self.width, self._options["samples_per_pixel"], self.bits_stored)
        self._fragments = self._checked_extent()
        self._palette = self._read_palette() if self.photometric == PALETTE else None

    @property
    def num_bytes(self) -> int:
        """Size of a decoded frame."""
        return self.height * self.width * self._options["samples_per_pixel"] * self._options["bits_allocated"] // 8

    @property
    def is_deep(self) -> bool:
        """Whether pixels have more than the 8 bits that they are rendered to."""
        return self.bits_stored > 8 and self._palette is None

    def decode(self, index: int) -> np.ndarray:
        """Decode frame `index`; colour is RGB, a palette's frame holds its entries' numbers.

        Raises:
            UnreadableError: If it is damaged.
        """
        partial = self.photometric in PARTIAL_RANGE
        encoded = read_fragments(self._source.file, self._fragments[index]) if self._fragments else None
        if encoded is not None:
            check_codestream(encoded, self._source.transfer_syntax, self._extent)
        try:
            pixels = self._decode_native(index, partial) if encoded is None else self._decode(encoded, partial)
        except UnreadableError:
            raise
        except Exception as error:  # decoders raise nearly anything, and their texts are not ours to pass on
            raise unreadable(error, "cannot be decoded") from None
        return _from_partial_range(pixels) if partial else pixels

    def _decode(self, encoded: bytes, raw: bool) -> np.ndarray:
        request = Request(self._source.transfer_syntax, self.plugin, raw, self._options)
        return (decode_apart if self.plugin in APART else decode_frame)(encoded, request)

    def _decode_native(self, index: int, raw: bool) -> np.ndarray:
        self._source.file.seek(self._source.pixel_data.start)
        with quiet_pydicom():
            # A fresh call for each frame: within one, pydicom 3.0 takes all frames but the first of uncompressed
            # YBR_FULL_422 from wrong places.
            pixels, _ = self._decoder.as_array(
                self._source.file, index=index, raw=raw, number_of_frames=self.num_frames, **self._options
            )
        return pixels

    def render(self, pixels: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Turn decoded pixels, or a part of a frame, to 8 bits.

        Eight bits stay as they are, fewer are spread over 8, always alike: black is the lowest value that can be
        stored. More are mapped through the object's window, or where it has none, from the range of the pixels given,
        of each frame anew.

        Args:
            pixels: (H, W) or (H, W, 3).
            mask: bool (H, W), whose pixels' range counts; of all by default.
        """
        if self._palette is not None:
            return self._palette[np.clip(pixels, 0, len(self._palette) - 1)]
        if self.bits_stored <= 8:
            image = self._few_bits(pixels)
        else:
            image = self._windowed(pixels, mask) if self.photometric in GREY else _spread(pixels, mask)
        return 255 - image if self.photometric == "MONOCHROME1" else image

    def _few_bits(self, pixels: np.ndarray) -> np.ndarray:
        lowest = -(2 ** (self.bits_stored - 1)) if self._options["pixel_representation"] else 0
        if lowest == 0 and self.bits_stored == 8:
            return pixels.astype(np.uint8)
        highest = 2**self.bits_stored - 1
        levels = np.rint(np.arange(highest + 1) * 255 / highest).astype(np.uint8)
        return levels[np.clip(pixels.astype(np.int32) - lowest, 0, highest)]

    def _windowed(self, pixels: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Apply the modality's rescaling and the linear window of PS3.3 C.11.2.1.2.1."""
        header = self._source.header
        center, width = number(header, "WindowCenter"), number(header, "WindowWidth")
        if center is None or width is None or width < 1:
            return _spread(pixels, mask)
        slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
        values = pixels * (1.0 if slope is None else slope) + (intercept or 0.0)
        share = (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5
        return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)

    def _checked_options(self) -> dict[str, Any]:
        """Return what the decoder has to know, after seeing that it makes sense."""
        header, samples = self._source.header, integer(self._source.header, "SamplesPerPixel", 1)
        if not (self.height and self.width):
            raise UnreadableError("damaged header (no picture size)")
        check_size(self.height, self.width)
        if self.photometric not in (*GREY, *COLOUR, PALETTE) or samples != (3 if self.photometric in COLOUR else 1):
            raise UnreadableError("photometric interpretation that is not supported")
        allocated = integer(header, "BitsAllocated")
        if allocated not in (8, 16, 32) or not 1 <= self.bits_stored <= allocated:
            raise UnreadableError("bit depth that is not supported")
        if integer(header, "HighBit", self.bits_stored - 1) != self.bits_stored - 1:
            raise UnreadableError("high bit that is not supported")
        return {
            "rows": self.height,
            "columns": self.width,
            "samples_per_pixel": samples,
            "photometric_interpretation": "YBR_FULL_422" if self.photometric in PARTIAL_RANGE else self.photometric,
            "planar_configuration": integer(header, "PlanarConfiguration"),
            "bits_allocated": allocated,
            "bits_stored": self.bits_stored,
            "pixel_representation": integer(header, "PixelRepresentation"),
            "pixel_keyword": "PixelData",
            "pixel_vr": self._source.pixel_data.vr,
            "correct_unused_bits": True,  # above the stored bits, old objects keep overlays: text
        }

    def _checked_extent(self) -> list[list[Fragment]]:
        """See that all frames are in the file, and return where encapsulated ones are."""
        file, element = self._source.file, self._source.pixel_data
        if self._source.transfer_syntax.is_encapsulated != (element.length is None):
            raise UnreadableError("pixel data that its transfer syntax does not describe")
        if element.length is None:
            return find_frames(file, element.start, self.num_frames)
        bits_per_pixel = self._options["bits_allocated"] * self._options["samples_per_pixel"]
        per_pixel = 16 if self.photometric in ("YBR_FULL_422", *PARTIAL_RANGE) else bits_per_pixel
        expected = self.num_frames * self.height * self.width * per_pixel // 8
        present = file.seek(0, os.SEEK_END) - element.start
        if min(present, element.length) < expected:
            raise UnreadableError("truncated" if present < element.length else "fewer frames than stated")
        return []

    def _read_palette(self) -> np.ndarray:
        """Return the palette's colours, uint8 (N, 3), N = 2 ^ bits stored."""
        try:
            with quiet_pydicom():
                entries = np.arange(2 ** min(self.bits_stored, 16), dtype=np.uint16)
                colours = apply_color_lut(entries[None], self._source.header)[0]  # (N, 3)
        except Exception as error:  # a damaged table
            raise unreadable(error, "damaged palette") from None
        # Some scanners state 16 bits and fill 8 of them.
        return (colours >> 8 if colours.dtype == np.uint16 and colours.max() > 255 else colours).astype(np.uint8)


def _decoder(syntax: UID) -> Any:
    try:
        decoder = get_decoder(syntax)
        if decoder.is_available:
            return decoder
    except NotImplementedError:
        pass  # told below, with decoders that are not installed
    raise UnreadableError(f"transfer syntax {syntax.name}: not supported")


def _spread(pixels: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Map the range of the masked pixels to 0..255."""
    kept = pixels if mask is None else pixels[mask]
    return scale_to_8_bit(np.clip(pixels, kept.min(), kept.max()))


def _from_partial_range(pixels: np.ndarray) -> np.ndarray:
    """Turn YCbCr of the partial range to RGB (ITU-R BT.601)."""
    luma, blue, red = np.moveaxis(pixels.astype(np.float32) - np.array([16, 128, 128], np.float32), -1, 0)
    luma *= 255 / 219
    channels = luma + 1.596 * red, luma - 0.392 * blue - 0.813 * red, luma + 2.017 * blue
    return np.rint(np.clip(np.stack(channels, axis=-1), 0, 255)).astype(np.uint8)  # 3 x (H, W) -> (H, W, 3)
