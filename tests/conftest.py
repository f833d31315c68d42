"""Fixtures that several packages' tests share.

Everything runs on one thread: the networks here are too small to be worth sharing out, and threads that wait for each
other on busy cores made single tests take a minute.
"""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)

ULTRASOUND_DATA = Path(__file__).parents[2] / "shared/data/ultrasound"


@pytest.fixture(scope="session")
def ultrasound_data() -> Path:
    """Real ultrasound images and clips, kept beside the checkout and not in it."""
    if not ULTRASOUND_DATA.is_dir():
        pytest.skip(f"needs the real images at {ULTRASOUND_DATA}")
    return ULTRASOUND_DATA


@pytest.fixture
def speckle() -> Callable[..., np.ndarray]:
    """Makes noise images that compress badly, so that a cut through a file's bytes cuts the picture."""

    def make(*shape: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture
def write_clip() -> Callable[..., Path]:
    """Writes clips whose frame i is 64 x 64 of grey level 4 i (mod 256)."""

    def write(path: Path, num_frames: int = 50, rate: int = 25, codec: str = "mpeg4", noise: bool = False) -> Path:
        draw = np.random.default_rng(0)
        # The index goes to the front, as a recorder that streams would have it: a cut file still opens.
        options = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream(codec, rate=rate)
            stream.width, stream.height = 64, 64
            stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
            for index in range(num_frames):
                grey = np.full((64, 64), 4 * index % 256, dtype=np.uint8)
                grey = draw.integers(0, 256, grey.shape, dtype=np.uint8) if noise else grey
                frame = av.VideoFrame.from_ndarray(np.stack([grey] * 3, axis=-1), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write
