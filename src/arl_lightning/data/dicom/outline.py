"""Finds the ultrasound picture on a screen that does not say where it is: a fan or a rectangle.

H rows, W columns. Images are uint8 (H, W); masks are bool (H, W), True = ultrasound. A cine is told by what changes
from frame to frame, a still by what is brighter than the background. The detector says None wherever it is not sure, as
what it keeps by mistake may be a patient's name.
"""

from collections.abc import Iterable

import cv2
import numpy as np

CHANGE = 1.5  # grey levels of standard deviation over time, smoothed; what compression does to a still screen is below
MIN_CHANGING_SHARE = 0.04  # of the screen; a cine with less is frozen and looked at as a still
BRIGHTER = 4  # grey levels from the background, smoothed
BRIGHT = 32  # grey levels from the background that text has at least
DARK = 64  # a screen's background is darker
STROKE = 7  # pixels; lines of text and graphics, smoothed, are thinner
SMOOTHING = 5  # pixels
MIN_SHARE = 0.08  # of the screen that the picture must cover
MIN_SOLIDITY = 0.85  # of the found shape in its convex hull: the round top of a fan lies inside of the hull
MIN_FILL = 0.93  # of the hull in its upright rectangle, for it to be one
MIN_SYMMETRY = 0.80  # overlap of a fan with its mirror image; a steered or cut fan stays above
MAX_SHARE = 0.95  # of the screen; more is a screen with a bright background, or says nothing about where text may be
MAX_ADDED_BRIGHT = 0.01  # share of the hull outside of the found shape that may be bright
MARGIN = 0.012  # of the longer side; how far from the found shape that rule begins


def find_outline(frames: Iterable[np.ndarray], strict: bool = True) -> np.ndarray | None:
    """Return the ultrasound's mask from one or more frames of a clip, None where it cannot be told surely.

    Args:
        frames: uint8 (H, W) each, of one clip.
        strict: Also refuse a shape whose convex hull takes in something bright, which may be text. Not strict is for
            a part of the screen that would be kept as a whole without an outline.
    """
    mean, deviation = _statistics(frames)
    brightness = np.abs(mean - _background(mean))
    changing = cv2.blur(deviation, (SMOOTHING, SMOOTHING)) > CHANGE
    if np.count_nonzero(changing) >= MIN_CHANGING_SHARE * changing.size:
        found = _largest(_solid(changing))
    else:
        found = _largest(_solid(cv2.medianBlur(brightness, SMOOTHING) > BRIGHTER))
    if found is None:
        return None
    hull = _hull(found)
    if not _is_shape(found, hull) or (strict and _adds_bright(found, hull, brightness)):
        return None
    return hull


def _statistics(frames: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's mean and standard deviation over time, one frame in memory at a time (Welford 1962)."""
    mean: np.ndarray = np.zeros(0)
    squares: np.ndarray = np.zeros(0)
    for count, frame in enumerate(frames, start=1):
        values: np.ndarray = frame.astype(np.float32)
        if count == 1:
            mean, squares = values, np.zeros_like(values)
            continue
        step = values - mean
        mean = mean + step / count
        squares = squares + step * (values - mean)
    return mean, np.sqrt(squares / max(count, 1))


def _background(image: np.ndarray) -> float:
    """Return the dark grey level that most of the screen has; text and tissue have many levels, a screen has one."""
    levels = np.bincount(np.rint(image).astype(np.int64).ravel(), minlength=DARK)[:DARK]
    return float(levels.argmax())


def _solid(mask: np.ndarray) -> np.ndarray:
    """Remove strokes, then close the gaps that dark organs leave."""
    closing = max(mask.shape) // 24 | 1
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _disc(STROKE))
    padded = cv2.copyMakeBorder(opened, closing, closing, closing, closing, cv2.BORDER_CONSTANT, value=0)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disc(closing))[closing:-closing, closing:-closing]
    # Bridges that the closing has built to a line of text nearby are narrower than it.
    return cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(closing))


def _largest(mask: np.ndarray) -> np.ndarray | None:
    """Return the largest connected part without its holes, None where it is too small to be the picture."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    largest = max(contours, key=cv2.contourArea)
    filled = _filled(largest, mask.shape)
    return filled if filled.sum() >= MIN_SHARE * filled.size else None


def _hull(mask: np.ndarray) -> np.ndarray:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return _filled(cv2.convexHull(np.concatenate(contours)), mask.shape)


def _filled(contour: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    canvas = np.zeros(shape, np.uint8)
    cv2.drawContours(canvas, [contour], -1, 1, cv2.FILLED)
    return canvas > 0


def _is_shape(found: np.ndarray, hull: np.ndarray) -> bool:
    """Tell whether a shape is a fan or a rectangle on a larger screen."""
    if found.sum() < MIN_SOLIDITY * hull.sum() or hull.mean() > MAX_SHARE:
        return False
    rows, columns = np.flatnonzero(hull.any(1)), np.flatnonzero(hull.any(0))
    shape = hull[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool(shape.mean() >= MIN_FILL) or _symmetry(shape) >= MIN_SYMMETRY


def _adds_bright(found: np.ndarray, hull: np.ndarray, brightness: np.ndarray) -> bool:
    """Tell whether the hull adds bright things, which may be text or graphics, to what was found."""
    grown = cv2.dilate(found.astype(np.uint8), _disc(round(MARGIN * max(*found.shape)) * 2 + 1)) > 0
    added = hull & ~grown
    return bool(np.count_nonzero(brightness[added] > BRIGHT) > MAX_ADDED_BRIGHT * np.count_nonzero(added))


def _symmetry(shape: np.ndarray) -> float:
    mirrored = shape[:, ::-1]
    return float(np.count_nonzero(shape & mirrored) / np.count_nonzero(shape | mirrored))


def _disc(diameter: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
