"""Draws what the tasks' phantom sets show. For demos and tests only: cartoons without clinical realism.

Images and masks are uint8 (H, W); P points (x, y) of an outline, in pixels.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from arl_lightning.data.phantom import generate_phantom
from arl_lightning.data.tasks.echonet_tracings import Chord, outline_of
from arl_lightning.data.tasks.masks import fill_outline

HEIGHTS, WIDTHS = (150, 181), (190, 231)  # of stills, in pixels
NUM_POINTS = 90
NUM_CHORDS = 20
BEAT = 16  # frames of a heart beat
SYSTOLE = BEAT // 2  # frames from end-diastole on
CONTRACTION = 0.3  # share of its width and length that the ventricle loses


def draw_still(anatomy: str, label: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw an anatomy with what belongs to a class, and the lesion's mask, 1 inside; all 0 without one.

    A `benign` lesion is smooth, wide and enhances what lies behind it, a `malignant` one is spiculated, tall and casts
    a shadow; any other class has none.
    """
    size = int(rng.integers(*HEIGHTS)), int(rng.integers(*WIDTHS))
    image = generate_phantom(anatomy, rng, size).image
    if label not in ("benign", "malignant"):
        return image, np.zeros(size, np.uint8)
    outline = _lesion_outline(size, label == "malignant", rng)
    mask = fill_outline([(float(x), float(y)) for x, y in outline], size)
    return _paint_lesion(image, mask, label == "malignant"), mask


def _lesion_outline(size: tuple[int, int], spiculated: bool, rng: np.random.Generator) -> np.ndarray:
    """Return a closed outline near the middle of an image, (P, 2)."""
    height, width = size
    angle = np.linspace(0.0, 2.0 * np.pi, NUM_POINTS, endpoint=False)
    radius = np.full(NUM_POINTS, rng.uniform(0.12, 0.17) * height)
    across, along = 1.35, 0.8
    if spiculated:
        across, along = 0.85, 1.2
        radius *= 1.0 + 0.22 * np.sin(int(rng.integers(7, 11)) * angle + rng.uniform(0.0, 6.3))
        radius *= 1.0 + 0.08 * rng.standard_normal(NUM_POINTS)
    x = rng.uniform(0.4, 0.6) * width + across * radius * np.cos(angle)
    y = rng.uniform(0.4, 0.55) * height + along * radius * np.sin(angle)
    return np.stack([x, y], axis=1)


def _paint_lesion(image: np.ndarray, mask: np.ndarray, malignant: bool) -> np.ndarray:
    cover = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)
    behind = cv2.GaussianBlur(np.maximum.accumulate(mask, axis=0).astype(np.float32), (0, 0), 2.5) * (1.0 - cover)
    kernel = np.ones((5, 5), np.uint8)
    rim = cv2.GaussianBlur((cv2.dilate(mask, kernel) - cv2.erode(mask, kernel)).astype(np.float32), (0, 0), 1.0)
    grey = image * (1.0 + behind * (-0.6 if malignant else 0.5))
    grey = grey * (1.0 - cover * (0.55 if malignant else 0.75))
    return _to_uint8(grey * (1.0 + rim * (1.2 if malignant else 0.2)))


def draw_lung(label: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a lung: `covid` with narrow streaks, `viral` with a broad one, `pneumonia` with a solid layer."""
    size = height, width = int(rng.integers(*HEIGHTS)), int(rng.integers(*WIDTHS))
    image = generate_phantom("lung", rng, size).image
    field = cv2.morphologyEx((image > 0).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((25, 25), np.uint8))
    grey = image.astype(np.float32)
    if label == "pneumonia":
        patch = np.zeros(size, np.float32)
        patch[int(0.3 * height) : int(rng.uniform(0.5, 0.6) * height)] = 1.0
        return _speckled(_to_uint8(grey + 80.0 * field * cv2.GaussianBlur(patch, (0, 0), 4.0)), rng)
    columns = np.arange(width, dtype=np.float32)
    num_streaks, breadth = {"covid": (7, 0.012), "viral": (1, 0.08)}.get(label, (0, 1.0))
    for _ in range(num_streaks):
        profile = np.exp(-0.5 * ((columns - rng.uniform(0.25, 0.75) * width) / (breadth * width)) ** 2)
        grey[int(0.3 * height) :] += 110.0 * profile
    return _speckled(_to_uint8(grey * field), rng)


def moving(image: np.ndarray, num_frames: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield frames of a picture that sways sideways, each with noise of its own."""
    height, width = image.shape
    for index in range(num_frames):
        shift = np.array([[1.0, 0.0, 3.0 * np.sin(0.7 * index)], [0.0, 1.0, 0.0]], np.float32)
        yield _speckled(cv2.warpAffine(image, shift, (width, height)), rng)


def beating_heart(side: int, rng: np.random.Generator) -> tuple[list[np.ndarray], list[list[Chord]]]:
    """Draw one beat from end-diastole on, and trace its ventricle in every frame.

    Returns:
        Frames (side, side), and each one's rows: the long axis, then chords across it from the apex on.
    """
    still = generate_phantom("cardiac", rng, (side, side)).image
    middle = rng.uniform(0.45, 0.6) * side, rng.uniform(0.42, 0.5) * side
    length, width, tilt = rng.uniform(0.2, 0.25) * side, rng.uniform(0.1, 0.13) * side, rng.uniform(-0.3, 0.3)
    frames, tracings = [], []
    for index in range(BEAT):
        scale = 1.0 - CONTRACTION * (0.5 - 0.5 * np.cos(np.pi * index / SYSTOLE))
        rows = _chords(middle, scale * length, scale * width, tilt)
        cover = cv2.GaussianBlur(fill_outline(outline_of(rows), (side, side)).astype(np.float32), (0, 0), 1.2)
        wall = cv2.GaussianBlur(cover, (0, 0), 3.0)
        frames.append(_speckled(_to_uint8((still + 70.0 * wall) * (1.0 - 0.85 * cover)), rng))
        tracings.append(rows)
    return frames, tracings


def _chords(middle: tuple[float, float], length: float, width: float, tilt: float) -> list[Chord]:
    """Return the long axis of an ellipse and chords across it, given its half axes and its angle to the vertical."""
    along, across = np.array([np.sin(tilt), np.cos(tilt)]), np.array([np.cos(tilt), -np.sin(tilt)])
    ends = [(middle - length * along, middle + length * along)]
    for place in np.linspace(-0.97, 0.97, NUM_CHORDS):
        centre, half = middle + place * length * along, width * np.sqrt(1.0 - place**2) * across
        ends.append((centre - half, centre + half))
    return [(float(a[0]), float(a[1]), float(b[0]), float(b[1])) for a, b in ends]


def write_avi(path: Path, frames: Iterable[np.ndarray], rate: int) -> None:
    """Write grey frames of one size as Motion JPEG, cut to even sides, which its colour sampling needs."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=rate)
        stream.pix_fmt = "yuvj420p"
        for index, frame in enumerate(frames):
            grey = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
            if index == 0:
                stream.height, stream.width = grey.shape
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="gray")))
        container.mux(stream.encode())


def _speckled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _to_uint8(image * (1.0 + 0.12 * rng.standard_normal(image.shape, np.float32)))


def _to_uint8(grey: np.ndarray) -> np.ndarray:
    return np.rint(grey).clip(0, 255).astype(np.uint8)
