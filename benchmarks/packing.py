"""How fast images are packed, by one process and by two, and what planning a large corpus takes.

    python benchmarks/packing.py                    # 3,000 speckled JPEGs of 500 x 650 to a short side of 256
    python benchmarks/packing.py --images FOLDER    # a folder's own images
    python benchmarks/packing.py --num_planned 5200000

Rounds alternate between one process and two; each packs from nothing. What is told of a round is its whole time,
start-up of processes and the writing of shards included. `planned` is the plan of a made-up corpus, half of it clips of
100 frames, in a process of its own, so that its peak memory is that of planning.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from jsonargparse import auto_cli

from arl_lightning.data.packing.command import pack_sources
from arl_lightning.data.packing.plan import Options, PlannedSource, make_plan
from arl_lightning.data.packing.spool import INDEX

HEIGHT, WIDTH, QUALITY = 500, 650, 93


def benchmark(
    images: Path | None = None, num_images: int = 3000, short_side: int = 256, rounds: int = 3, num_planned: int = 0
) -> None:
    """Print rates and their ratio.

    Args:
        images: Folder of images; speckle is made without it.
        num_images: How much speckle.
        short_side: What images are scaled down to.
        rounds: Packings with one process, and with two.
        num_planned: Plan a made-up corpus of this size too.
    """
    with tempfile.TemporaryDirectory() as work:
        folder = images or make_images(Path(work, "images"), num_images)
        rates: dict[int, list[float]] = {1: [], 2: []}
        for number in range(rounds):
            for processes in rates:
                out = Path(work, f"out-{number}-{processes}")
                rates[processes].append(pack(folder, out, short_side, processes))
        for processes, measured in rates.items():
            shown = ", ".join(f"{rate:,.0f}" for rate in measured)
            print(f"{processes} process{'es' * (processes > 1)}: {median(measured):,.0f} img/s ({shown})")
        ratio = median(two / one for one, two in zip(*rates.values(), strict=True))
        print(f"two / one: {ratio:.2f}")
    if num_planned:
        subprocess.run([sys.executable, __file__, "--plan", str(num_planned)], check=True)


def make_images(folder: Path, num_images: int) -> Path:
    """Write speckled grey JPEGs."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(num_images):
        speckle = cv2.GaussianBlur(draw.rayleigh(60.0, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 1.2)
        depth = np.linspace(1.2, 0.4, HEIGHT, dtype=np.float32)[:, None]
        image = np.clip(speckle * depth, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return folder


def pack(folder: Path, out: Path, short_side: int, processes: int) -> float:
    """Return images per second of one packing."""
    start = time.perf_counter()
    report = pack_sources(
        out, source="folder", root=folder, anatomy="other", short_side=short_side, processes=processes
    )
    num_images = int(report.split()[1].replace(",", ""))
    return num_images / (time.perf_counter() - start)


def plan(num: int) -> None:
    """Plan a made-up corpus and print the time and the peak memory of this process."""
    draw = np.random.default_rng(0)
    index = np.zeros(num, INDEX)
    for name in ("key", "coarse", "sha"):
        index[name] = draw.integers(1, 2**63, num, dtype=np.uint64)
    for column in range(4):
        index["detail"][:, column] = draw.integers(1, 2**63, num, dtype=np.uint64)
    index["patient"] = np.arange(num) // 40 + 1
    index["video"][: num // 2] = np.arange(num // 2) // 100 + 1
    start = time.perf_counter()
    options = Options(splits={"train": 0.95, "val": 0.05}, drop_duplicates=True)
    make_plan(index, index[:0], ["other"], [PlannedSource("made-up")], options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"planned {num:,} images in {time.perf_counter() - start:.0f} s, {peak / 1e9:.2f} GB at the peak")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plan"]:
        plan(int(sys.argv[2]))
    else:
        auto_cli(benchmark, as_positional=False)
