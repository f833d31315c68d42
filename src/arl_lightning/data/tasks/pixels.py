"""Reads the images that a file holds for its cases, and brings images and masks to one size.

H, W of an image; images are uint8, (H, W) grey or (H, W, 3) RGB, masks uint8 (H, W).
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from arl_lightning.data.media import CLIP_SUFFIXES, MIN_SIDE, decode_image
from arl_lightning.data.shards.sample import Rejected
from arl_lightning.data.tasks.case import Box, Case
from arl_lightning.data.tasks.frames import read_frames

BLANK = 2.0  # grey levels of standard deviation of an image without content


def read_images(path: Path, cases: Sequence[Case]) -> Iterator[tuple[int, np.ndarray | Rejected]]:
    """Yield the images of the cases that one file holds, by their places among these; damage ends them."""
    if path.suffix.lower() not in CLIP_SUFFIXES:
        image = decode_image(path)
        yield from ((place, image) for place in range(len(cases)))
        return
    places = defaultdict(list)
    for place, case in enumerate(cases):
        places[case.frame or 0].append(place)
    for read in read_frames(path, places):
        if isinstance(read, Rejected):
            yield 0, read
            return
        yield from ((place, read[1]) for place in places[read[0]])


def box_fault(box: Box | None, size: tuple[int, int]) -> str | None:
    """Say what is wrong with a box in a picture of some height and width; a part must be as large as an image."""
    if box is None:
        return None
    (x0, y0, x1, y1), (height, width) = box, size
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        return f"box {x0}, {y0}, {x1}, {y1} is not within the {width}x{height} pixels of the picture; correct it"
    if min(x1 - x0, y1 - y0) < MIN_SIDE:
        return f"box of {x1 - x0}x{y1 - y0} pixels; at least {MIN_SIDE}x{MIN_SIDE} are needed; enlarge it"
    return None


def part_of(pixels: np.ndarray, box: Box | None) -> np.ndarray:
    """Return the part of an image or a mask within a box."""
    if box is None:
        return pixels
    x0, y0, x1, y1 = box
    return pixels[y0:y1, x0:x1].copy()  # a view would keep the whole in memory


def part_size(size: tuple[int, int], box: Box | None) -> tuple[int, int]:
    """Return the height and width of the part within a box of a picture of some height and width."""
    return size if box is None else (box[3] - box[1], box[2] - box[0])


def scaled_image(image: np.ndarray, side: int, in_chans: int) -> np.ndarray:
    """Bring an image to `side` and, where `in_chans` is 1, to grey; grey ones stay (H, W) for 3 channels too."""
    if in_chans == 1 and image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = _scaled_size(image.shape[:2], side)
    return image if size == image.shape[:2] else cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def scaled_mask(mask: np.ndarray, side: int) -> np.ndarray:
    """Bring a mask to the size that its image has, by the nearest pixel."""
    size = _scaled_size(mask.shape, side)
    return mask if size == mask.shape else cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _scaled_size(size: tuple[int, ...], side: int) -> tuple[int, int]:
    height, width = size
    factor = min(1.0, side / min(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def picture_hash(image: np.ndarray) -> bytes:
    """Name a picture by its grey pixels; blank ones, which all look alike, have no name."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if cv2.meanStdDev(grey)[1].item() < BLANK:
        return b""
    content = hashlib.blake2b(grey.tobytes(), digest_size=16)
    content.update(str(grey.shape).encode())
    return content.digest()
