"""Decodes image files and clips to uint8, whatever they hold; damage becomes a `Rejected`, never an exception.

Shapes: a decoded image is uint8, (H, W) grey or (H, W, 3) RGB.
"""

import errno
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from arl_lightning.data.shards.sample import Rejected

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
CLIP_SUFFIXES = (".avi", ".gif", ".mov", ".mp4", ".mpeg", ".mpg")

MIN_SIDE = 32
MAX_SIDE = 65_500  # the longest side that a JPEG holds
MAX_PIXELS = 89_478_485  # a quarter of a GiB of RGB; above it Pillow too suspects a decompression bomb

# An image is grey where at most 1 pixel in 1,000 has channels more than 32 levels apart: JPEG noise and a tinted
# screen stay below, a callipers' mark or a Doppler box lies above.
GREY_LEVELS = 32
GREY_SHARE = 0.001

# Only the formats behind the suffixes: Pillow would start Ghostscript for an EPS, libav follow the links of a playlist.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
CLIP_OPTIONS = {
    "format_whitelist": "avi,gif,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mpegvideo",
    "protocol_whitelist": "file",
}

FALLBACK_RATE = Fraction(25)  # frames/s of a clip that states neither time stamps nor a rate
COMPLETE_SHARE = 0.9  # an edit list hides some of the frames that a header counts


# What a disk, a network or a machine that is out of something answers: the next file would not fare better, and this
# one may be whole.
MACHINE = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
        *("ECONNRESET", "ECONNABORTED", "EREMOTEIO", "ENODEV", "ENXIO", "EMFILE", "ENFILE", "ENOSPC", "EDQUOT"),
        *("ENOMEM", "ENOBUFS", "EAGAIN"),
    )
    if hasattr(errno, name)
)


def is_of_machine(error: Exception) -> bool:
    """Tell whether an exception is the machine's and not the file's."""
    if isinstance(error, av.FFmpegError) and error.errno in (errno.EIO, errno.EAGAIN):
        return False  # libav says so of broken clips too
    return isinstance(error, OSError) and error.errno in MACHINE


class UnreadableError(Exception):
    """Carries the short reason for a `Rejected`."""


def decode_image(path: Path) -> np.ndarray | Rejected:
    """Decode a file's first image to uint8, (H, W) where it is grey, else (H, W, 3).

    Alpha is dropped and the EXIF orientation ignored. More than 8 bits a channel are scaled to 8 over the image's own
    range: scanners fill an unknown part of 16 bits, often the lowest 12, and a fixed shift would leave those black.
    """
    try:
        with quiet_pillow():
            return to_grey(_load_image(path))
    # A damaged file makes decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error, ...
    except Exception as error:
        refuse_machine_failure(error)
        return Rejected(path, reason_of(path, error))


def _load_image(path: Path) -> np.ndarray:
    with Image.open(path, formats=IMAGE_FORMATS) as image:
        check_size(image.height, image.width)
        deep_colour = image.mode in ("RGB", "RGBA", "LA") and ";16" in str(image.tile)
        image.load()
        if deep_colour:  # Pillow cuts these to their upper 8 bits
            return scale_to_8_bit(_load_deep_colour(path))
        if image.mode == "F" or image.mode.startswith("I"):
            return scale_to_8_bit(np.asarray(image))
        return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def _load_deep_colour(path: Path) -> np.ndarray:
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if pixels is None:
        raise UnreadableError("16-bit colour image that cannot be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def scale_to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """Map an image's own range of finite values to 0..255; a constant image becomes 0."""
    values = pixels.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise UnreadableError("no finite pixel values")
    low, high = values[finite].min(), values[finite].max()
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return np.rint((values - low) * (255 / max(high - low, np.finfo(np.float64).tiny))).astype(np.uint8)


def to_grey(image: np.ndarray) -> np.ndarray:
    """Turn an RGB image without colour, up to chroma noise, to (H, W); return any other as it is."""
    if image.ndim == 2:
        return image
    red, green, blue = cv2.split(image)
    spread = cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)  # (H, W)
    coloured = np.count_nonzero(spread > GREY_LEVELS) / spread.size
    return image if coloured > GREY_SHARE else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def check_size(height: int, width: int) -> None:
    """Refuse an image too small to crop or too large to decode."""
    if min(height, width) < MIN_SIDE:
        raise UnreadableError(f"{width}x{height} pixels; at least {MIN_SIDE}x{MIN_SIDE} are needed")
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise UnreadableError(f"{width}x{height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all are read")


@dataclass(frozen=True)
class ClipFrame:
    """One frame of a clip and its index among all of the clip's frames."""

    image: np.ndarray
    index: int


def decode_clip(path: Path, fps: Fraction) -> Iterator[ClipFrame | Rejected]:
    """Yield the first frame of each 1/`fps` seconds of a clip, one frame in memory at a time.

    Time is counted from the first frame by the frames' time stamps; a frame without one is placed by its index and the
    clip's rate, or 25 frames/s where it states none. At a fault a `Rejected` ends the clip.
    """
    num_frames, last_slot = 0, -1
    try:
        with av.open(f"file:{path}", options=CLIP_OPTIONS) as container:
            if not container.streams.video:
                raise UnreadableError("holds no video")
            stream = container.streams.video[0]
            for frame, seconds in _timed_frames(container.decode(stream), stream.average_rate or FALLBACK_RATE):
                slot = math.floor(seconds * fps)
                # "Another slot", not "a later one": time stamps that jump back must not silence the rest of the clip.
                if slot != last_slot:
                    yield ClipFrame(_frame_image(frame), num_frames)
                last_slot = slot
                num_frames += 1
            _check_complete(num_frames, stream.frames)
    except Exception as error:  # as for images, damage surfaces as many types
        refuse_machine_failure(error)
        start = f"frame {num_frames}: " if num_frames else ""
        yield Rejected(path, start + reason_of(path, error))


def _timed_frames(frames: Iterator[av.VideoFrame], rate: Fraction) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    first_pts = None
    for index, frame in enumerate(frames):
        if frame.is_corrupt:
            raise UnreadableError("damaged frame")
        if frame.pts is None or frame.time_base is None:
            yield frame, index / rate
            continue
        first_pts = frame.pts if first_pts is None else first_pts
        yield frame, (frame.pts - first_pts) * frame.time_base


def _frame_image(frame: av.VideoFrame) -> np.ndarray:
    check_size(frame.height, frame.width)
    return to_grey(frame.to_ndarray(format="rgb24"))


def _check_complete(num_decoded: int, num_stated: int) -> None:
    if num_decoded == 0:
        raise UnreadableError("no frame could be decoded")
    if num_decoded < COMPLETE_SHARE * num_stated:
        raise UnreadableError(f"ends after {num_decoded} of {num_stated} frames")


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's remarks on odd files from the terminal; its suspicion of a decompression bomb becomes an error."""
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        logger.setLevel(level)


def refuse_machine_failure(error: Exception) -> None:
    """Raise an error again if it is the machine's: a file must not be given up for it."""
    if is_of_machine(error):
        raise error


def reason_of(path: Path, error: Exception) -> str:
    """Say in a few words why a file cannot be read."""
    if path.is_file() and path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {MAX_PIXELS} pixels; a decompression bomb or no ultrasound image"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError | av.FFmpegError) and error.strerror:
        return str(error.strerror)
    return " ".join(str(error).split())[:120] or type(error).__name__
