"""Tells when a cine's frames were shown, and samples them by time."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate

from pydicom.dataset import Dataset

from arl_lightning.data.dicom.header import numbers
from arl_lightning.data.media import FALLBACK_RATE


def sampled_frames(header: Dataset, num_frames: int, fps: Fraction) -> Iterator[int]:
    """Yield the index of the first frame of each 1/`fps` seconds, all frames where the cine has fewer."""
    last_slot = -1
    for index, seconds in enumerate(frame_times(header, num_frames)):
        slot = math.floor(seconds * fps)
        if slot != last_slot:
            yield index
        last_slot = slot


def frame_times(header: Dataset, num_frames: int) -> Iterator[Fraction]:
    """Yield each frame's time in seconds from the first.

    FrameTimeVector counts where it has an entry for each frame (its first is the time before the first frame) or for
    each step between two, then FrameTime, CineRate, RecommendedDisplayFrameRate, then 25 frames/s.
    """
    increments = numbers(header, "FrameTimeVector")
    steps = increments[1:] if len(increments) == num_frames else increments
    if len(steps) == num_frames - 1 and all(step >= 0 for step in steps) and sum(steps) > 0:
        yield from accumulate((step / 1000 for step in steps), initial=Fraction(0))
        return
    interval = frame_interval(header)
    for index in range(num_frames):
        yield index * interval


def frame_interval(header: Dataset) -> Fraction:
    """Return the seconds from one frame to the next where they are equally far apart."""
    for milliseconds in numbers(header, "FrameTime"):
        if milliseconds > 0:
            return milliseconds / 1000
    for keyword in ("CineRate", "RecommendedDisplayFrameRate"):
        for rate in numbers(header, keyword):
            if rate > 0:
                return 1 / rate
    return 1 / FALLBACK_RATE
