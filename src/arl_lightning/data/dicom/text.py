"""Tells pictures that seem to hold burned-in text.

H rows, W columns. A heuristic whose finds, and whose silence, a person must check: it looks for rows of letter-sized,
bright, evenly lit shapes on one line. It misses handwriting, dim or very small letters, and fewer than three together.
"""

from typing import NamedTuple

import cv2
import numpy as np

STROKE = 9  # pixels; the strokes of letters are thinner
CONTRASTS = 48, 80, 120, 160  # grey levels of a stroke over what surrounds it: dim text is seen at the first, bright
# text on tissue at the last, where the tissue's own texture no longer sticks to its letters
LETTER_HEIGHTS = 6, 48  # pixels
MAX_WIDTH = 1.7  # of a letter, in its heights: W and M
MIN_FILL = 0.15  # of a letter in its box; an I or an l fills it
MAX_UNEVEN = 0.22  # standard deviation within a letter's strokes, by their mean: speckle is less even than ink
SAME_HEIGHT = 0.25  # relative; letters of a line have one of two heights
SAME_LINE = 0.2  # of the height; how far the feet of letters lie apart
MAX_GAP = 0.9  # of the height, between letters of a word
MIN_LETTERS = 3


class Letter(NamedTuple):
    """A letter-like shape's box in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def foot(self) -> int:
        """Row below the shape."""
        return self.top + self.height


def has_text(image: np.ndarray, mask: np.ndarray | None = None) -> bool:
    """Tell whether a picture seems to hold text.

    Args:
        image: uint8 (H, W), or (H, W, 3) RGB; of a cine, the darkest value of each pixel over a few frames: text stays.
        mask: bool (H, W), where to look; everywhere by default.
    """
    brightest = image if image.ndim == 2 else image.max(axis=-1)  # coloured letters are bright in one channel
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (STROKE, STROKE))
    brightest = np.ascontiguousarray(brightest)
    contrast = cv2.morphologyEx(brightest, cv2.MORPH_TOPHAT, kernel)
    if mask is not None:
        contrast = np.where(mask, contrast, 0)
    return any(_has_word(_letters(brightest, contrast > level)) for level in CONTRASTS)


def _has_word(letters: list[Letter]) -> bool:
    return any(_length_of_word(letters, start) >= MIN_LETTERS for start in range(len(letters)))


def _letters(image: np.ndarray, strokes: np.ndarray) -> list[Letter]:
    """Return the letter-like ones of an image's strokes, from left to right."""
    num, places, boxes, _ = cv2.connectedComponentsWithStats(strokes.astype(np.uint8), connectivity=8)
    areas = boxes[:, cv2.CC_STAT_AREA].astype(np.float64)
    values = image.ravel().astype(np.float64)
    sums = np.bincount(places.ravel(), values, num) / areas
    squares = np.bincount(places.ravel(), values**2, num) / areas
    unevenness = np.sqrt(np.maximum(squares - sums**2, 0)) / np.maximum(sums, 1)
    found = []
    for number in range(1, num):  # 0 is what is no stroke
        left, top, width, height, area = (int(value) for value in boxes[number])
        if (
            LETTER_HEIGHTS[0] <= height <= LETTER_HEIGHTS[1]
            and width <= MAX_WIDTH * height
            and area / (width * height) >= MIN_FILL
            and unevenness[number] <= MAX_UNEVEN
        ):
            found.append(Letter(left, top, width, height))
    return sorted(found)


def _length_of_word(letters: list[Letter], start: int) -> int:
    """Return how many letters follow each other on a line from one on; `letters` are sorted from left to right."""
    last, length = letters[start], 1
    for letter in letters[start + 1 :]:
        gap = letter.left - (last.left + last.width)
        if gap > MAX_GAP * last.height:
            break
        even = abs(letter.height - last.height) <= SAME_HEIGHT * last.height
        if gap >= -1 and even and abs(letter.foot - last.foot) <= max(SAME_LINE * last.height, 1):
            last, length = letter, length + 1
    return length
