"""Reads a folder of images and clips that has no layout of its own.

Shapes: a decoded image is uint8, (H, W) grey or (H, W, 3) RGB.
"""

import itertools
import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.errors import UserError

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


class _UnreadableError(Exception):
    """Carries the short reason for a `Rejected`."""


def read_folder(
    root: Path,
    anatomy: str,
    fps: float = 2.0,
    exclude: Sequence[str] = (),
    source: str | None = None,
    include: Sequence[str] = (),
) -> Iterator[Sample | Rejected]:
    """Yield every image and sampled clip frame under a folder, in sorted order.

    Patients are unknown here. A file that cannot be read yields one `Rejected`; a clip with a fault midway yields its
    frames before the fault first.

    Args:
        root: The folder; its sub-folders are read too, hidden files and folders are not.
        anatomy: The anatomy of all images.
        fps: Frames taken from each second of a clip, all where the clip has fewer.
        exclude: Patterns of files to leave out, see `find_media`.
        source: Name of the data set; the folder's name by default.
        include: Patterns of files to read, none for all; likewise.

    Raises:
        UserError: If the root is missing, is no folder or holds nothing to read, or `fps` is not above 0.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise UserError(f"--fps {fps}: must be above 0 frames per second")
    paths = find_media(root, exclude, include)
    first = next(paths, None)
    if first is None:
        left_out = f" that {list(include)} includes" if include else ""
        left_out += f" beside what {list(exclude)} excludes" if exclude else ""
        raise UserError(
            f"{root}: holds no image or clip{left_out}; looked for {', '.join(IMAGE_SUFFIXES + CLIP_SUFFIXES)}"
        )
    frame_rate = Fraction(fps).limit_denominator(1000)
    return _read_files(itertools.chain([first], paths), root, anatomy, frame_rate, source or root.resolve().name)


def find_media(root: Path, exclude: Sequence[str] = (), include: Sequence[str] = ()) -> Iterator[Path]:
    """Yield the images and clips under a folder, sorted within each folder.

    A pattern such as `*_mask*` or `masks/*` is compared, without regard to case, with the end of a file's path from any
    folder on: excluding `masks/*` leaves out every folder named masks, at any depth. Without `include` all are read.

    Raises:
        UserError: If the root, or a folder in it, is missing, is no folder or must not be read.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: {'is no folder' if root.exists() else 'no such folder'}; --root names the images' folder"
        )
    excluded, included = _path_patterns(exclude), _path_patterns(include or ["*"])
    for folder, subfolders, names in os.walk(root, onerror=_refuse_folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            relative = f"/{path.relative_to(root).as_posix()}".lower()
            if name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES + CLIP_SUFFIXES:
                continue
            if _matches(relative, included) and not _matches(relative, excluded):
                yield path


def _path_patterns(patterns: Sequence[str]) -> list[str]:
    return [f"*/{pattern.lower().lstrip('/')}{'*' if pattern.endswith('/') else ''}" for pattern in patterns]


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(relative, pattern) for pattern in patterns)


def _refuse_folder(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); grant access to it") from error


def _read_files(
    paths: Iterable[Path], root: Path, anatomy: str, fps: Fraction, source: str
) -> Iterator[Sample | Rejected]:
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() in IMAGE_SUFFIXES:
            image = decode_image(path)
            yield image if isinstance(image, Rejected) else Sample(image, anatomy, source, name)
            continue
        for frame in decode_clip(path, fps):
            if isinstance(frame, Rejected):
                yield frame
            else:
                frame_name = f"{name}#{frame.index:06d}"
                yield Sample(frame.image, anatomy, source, frame_name, video=name, frame=frame.index)


def decode_image(path: Path) -> np.ndarray | Rejected:
    """Decode a file's first image to uint8, (H, W) where it is grey, else (H, W, 3).

    Alpha is dropped and the EXIF orientation ignored. More than 8 bits a channel are scaled to 8 over the image's own
    range: scanners fill an unknown part of 16 bits, often the lowest 12, and a fixed shift would leave those black.
    """
    try:
        with _quiet_pillow():
            return to_grey(_load_image(path))
    # A damaged file makes decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error, ...
    except Exception as error:
        return Rejected(path, _reason(path, error))


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
        raise _UnreadableError("16-bit colour image that cannot be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def scale_to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """Map an image's own range of finite values to 0..255; a constant image becomes 0."""
    values = pixels.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise _UnreadableError("no finite pixel values")
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
        raise _UnreadableError(f"{width}x{height} pixels; at least {MIN_SIDE}x{MIN_SIDE} are needed")
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise _UnreadableError(f"{width}x{height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all are read")


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
                raise _UnreadableError("holds no video")
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
        start = f"frame {num_frames}: " if num_frames else ""
        yield Rejected(path, start + _reason(path, error))


def _timed_frames(frames: Iterator[av.VideoFrame], rate: Fraction) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    first_pts = None
    for index, frame in enumerate(frames):
        if frame.is_corrupt:
            raise _UnreadableError("damaged frame")
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
        raise _UnreadableError("no frame could be decoded")
    if num_decoded < COMPLETE_SHARE * num_stated:
        raise _UnreadableError(f"ends after {num_decoded} of {num_stated} frames")


@contextmanager
def _quiet_pillow() -> Iterator[None]:
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


def _reason(path: Path, error: Exception) -> str:
    if path.is_file() and path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {MAX_PIXELS} pixels; a decompression bomb or no ultrasound image"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError | av.FFmpegError) and error.strerror:
        return str(error.strerror)
    return " ".join(str(error).split())[:120] or type(error).__name__
