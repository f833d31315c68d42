"""Reads the frames of a clip that a task's cases name, in one pass over the clip.

An image is uint8, (H, W) grey or (H, W, 3) RGB.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

import av
import numpy as np

from arl_lightning.data.media import (
    CLIP_OPTIONS,
    UnreadableError,
    check_size,
    reason_of,
    refuse_machine_failure,
    to_grey,
)
from arl_lightning.data.shards.sample import Rejected
from arl_lightning.data.wording import count


def read_frames(path: Path, wanted: Collection[int]) -> Iterator[tuple[int, np.ndarray] | Rejected]:
    """Yield the wanted frames of a clip with their indexes, ascending; a fault ends them with a `Rejected`.

    Nothing is decoded beyond the last of them. Damage before it counts, as frames build on each other.
    """
    num_frames, last = 0, max(wanted)
    try:
        with av.open(f"file:{path}", options=CLIP_OPTIONS) as container:
            if not container.streams.video:
                raise UnreadableError("holds no video")
            for index, frame in enumerate(container.decode(container.streams.video[0])):
                if frame.is_corrupt:
                    raise UnreadableError("damaged frame")
                num_frames = index + 1
                if index in wanted:
                    check_size(frame.height, frame.width)
                    yield index, to_grey(frame.to_ndarray(format="rgb24"))
                if index == last:
                    return
        raise UnreadableError("ends early")
    except Exception as error:  # damage surfaces as many types
        refuse_machine_failure(error)
        reason = reason_of(path, error)
        asked = min(index for index in wanted if index >= num_frames) if num_frames <= last else last
        yield Rejected(path, f"{reason}: {count(num_frames, 'frame')} can be decoded, frame {asked} is asked for")
