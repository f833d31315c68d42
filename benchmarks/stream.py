"""Raw JPEG decoding, our stream and the usual pipeline on the same files, in one run.

    python benchmarks/stream.py                   # phantoms of 503 x 656, grey JPEGs of about 108 kB
    python benchmarks/stream.py --images FOLDER   # real images, scaled and encoded to the same
    python benchmarks/stream.py --shards FOLDER   # packed shards as they are

- raw: the files' bytes in memory through the decoder that the stream uses, in this process; nothing else.
- ours: `PretrainingDataModule` with one worker: shards to batches of 2 x 224 + 8 x 96 crops.
- usual: webdataset, Pillow to RGB and albumentations (random resized crop, flip, to tensor) for the same 10 crops, in a
  DataLoader with one worker.

The worker, or this process while it decodes, is pinned to one core, and its rate counts the CPU time of that one
process alone: other jobs on the machine change it little, and receiving batches is the training process' work. Rates on
the clock stand beside. Rounds alternate between the three, ratios are medians over rounds of each round's ratio.
"""

# N images, S output size in pixels

import hashlib
import io
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import webdataset
from jsonargparse import auto_cli
from torch.utils.data import DataLoader

from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.data.shards.manifest import Manifest, ShardInfo
from arl_lightning.data.shards.tars import walk_entries
from arl_lightning.data.sources.phantom import Phantom
from arl_lightning.data.stream.transform import decode_image
from arl_lightning.errors import UserError

HEIGHT, WIDTH = 503, 656
NUM_SHARDS = 4
VIEWS = ((2, 224, (0.32, 1.0)), (8, 96, (0.05, 0.32)))  # number, size, scale
# Least ratios that the stream should keep.
LEAST_OF_RAW, LEAST_OF_USUAL = 0.65, 1.9


class Rate(NamedTuple):
    """Images a second of CPU time, and of time on the clock."""

    cpu: float
    clock: float


@dataclass(frozen=True)
class Report:
    """One rate of each contender in each round."""

    corpus: str
    rounds: dict[str, list[Rate]]

    def ratio(self, over: str, under: str) -> float:
        """Return the median over rounds of two contenders' ratio."""
        pairs = zip(self.rounds[over], self.rounds[under], strict=True)
        return median(first.cpu / second.cpu for first, second in pairs)

    def __str__(self) -> str:
        lines = [self.corpus, f"{'images a second of':28}{'CPU':>8}{'clock':>8}"]
        for name, rates in self.rounds.items():
            cpu, clock = median(rate.cpu for rate in rates), median(rate.clock for rate in rates)
            lines.append(f"{name:28}{cpu:8,.0f}{clock:8,.0f}")
        raw, ours, usual = self.rounds
        lines += [
            f"ours / raw    {self.ratio(ours, raw):.2f} (at least {LEAST_OF_RAW})",
            f"ours / usual  {self.ratio(ours, usual):.2f} (at least {LEAST_OF_USUAL})",
            f"medians of {len(self.rounds[raw])} rounds; one core for all, CPU time of the decoding process or worker",
        ]
        return "\n".join(lines)


def benchmark(
    shards: Path | None = None,
    images: Path | None = None,
    num_images: int = 384,
    kilobytes: float = 108.0,
    batch_size: int = 64,
    rounds: int = 9,
    batches_per_round: int = 6,
) -> Report:
    """Measure the three in turn.

    Args:
        shards: Folder of packed shards to read.
        images: Folder of images to make shards of.
        num_images: Images of the shards that are made.
        kilobytes: Mean size of their JPEGs, in 1,000 bytes.
        batch_size: Images in a batch.
        rounds: Times that each is measured.
        batches_per_round: Batches that each processes in a round.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with ExitStack() as stack:
        if shards is None:
            shards = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            make_corpus(shards, images, num_images, kilobytes)
        encoded = list(itertools.islice(read_images(shards), batch_size * batches_per_round))
        core = max(os.sched_getaffinity(0))
        contenders: dict[str, Callable[[int], Rate]] = {"raw decode, grey": RawDecode(encoded, batch_size, core)}
        for name, loader in (
            ("ours, 1 worker", our_loader(shards, batch_size)),
            ("usual, 1 worker", usual_loader(shards, batch_size)),
        ):
            contenders[name] = OneWorker(loader, batch_size, core)
        measured: dict[str, list[Rate]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                measured[name].append(contender(batches_per_round))
        contenders.clear()  # ends the workers before their shards are removed
    return Report(describe(encoded), measured)


class RawDecode:
    """Decodes images from memory."""

    def __init__(self, encoded: list[bytes], batch_size: int, core: int) -> None:
        self.encoded = encoded
        self.batch_size = batch_size
        self.core = core

    def __call__(self, num_batches: int) -> Rate:
        """Return the rate over so many batches' images, with this process on the one core meanwhile."""
        given = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.core})
        num_images = num_batches * self.batch_size
        cpu, clock = time.process_time(), time.perf_counter()
        for image in itertools.islice(itertools.cycle(self.encoded), num_images):
            decode_image(image, 1)
        rate = Rate(num_images / (time.process_time() - cpu), num_images / (time.perf_counter() - clock))
        os.sched_setaffinity(0, given)
        return rate


class OneWorker:
    """Takes batches from a DataLoader's only worker, which starts here."""

    def __init__(self, loader: Iterable[Any], batch_size: int, core: int) -> None:
        before = {process.pid for process in active_children()}
        self.batches = iter(loader)
        next(self.batches)
        (self.pid,) = (process.pid for process in active_children() if process.pid not in before)
        self.batch_size = batch_size
        os.sched_setaffinity(self.pid, {core})
        self._wait_until_idle()

    def __call__(self, num_batches: int) -> Rate:
        """Return the worker's rate over so many batches."""
        for _ in range(2):  # made ahead
            next(self.batches)
        cpu, clock = self._cpu_time(), time.perf_counter()
        for _ in range(num_batches):
            next(self.batches)
        num_images = num_batches * self.batch_size
        rate = Rate(num_images / (self._cpu_time() - cpu), num_images / (time.perf_counter() - clock))
        self._wait_until_idle()
        return rate

    def _wait_until_idle(self) -> None:
        """Let it make its batches ahead, which would disturb whatever is measured next."""
        before = -1.0
        while (now := self._cpu_time()) > before:
            before = now
            time.sleep(0.1)

    def _cpu_time(self) -> float:
        """Return the CPU time of all its threads in seconds, by Linux' clock of another process."""
        return time.clock_gettime((~self.pid << 3) | 2)


def our_loader(shards: Path, batch_size: int) -> Iterable[Any]:
    """Return the pretraining stream with its default views."""
    (num_global, global_size, global_scale), (num_local, local_size, local_scale) = VIEWS
    data = PretrainingDataModule(
        str(shards), batch_size, 1, 1, num_global, global_size, global_scale, num_local, local_size, local_scale
    )
    return data.train_dataloader()


def usual_loader(shards: Path, batch_size: int) -> DataLoader[Any]:
    """Return webdataset with Pillow and albumentations, as one writes it by hand."""
    urls = sorted(str(path) for path in shards.glob("*.tar"))
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
        .shuffle(256)
        .decode("pilrgb")
        .to_tuple("jpg;png", "json")
        .map(AlbumentationsCrops())
        .repeat()
    )
    return DataLoader(dataset, batch_size, num_workers=1)


class AlbumentationsCrops:
    """Makes the views of a (PIL image, record)."""

    def __init__(self) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the network at import
        import albumentations
        from albumentations.pytorch import ToTensorV2

        self.crops = [
            albumentations.Compose(
                [
                    albumentations.RandomResizedCrop((size, size), scale=scale),
                    albumentations.HorizontalFlip(p=0.5),
                    ToTensorV2(),
                ]
            )
            for number, size, scale in VIEWS
            for _ in range(number)
        ]

    def __call__(self, sample: tuple[Any, dict[str, Any]]) -> list[torch.Tensor]:
        """Return uint8 (3, S, S) of each view."""
        cv2.setNumThreads(0)
        image = np.asarray(sample[0])
        return [crop(image=image)["image"] for crop in self.crops]


def make_corpus(folder: Path, images: Path | None, num_images: int, kilobytes: float) -> None:
    """Write grey JPEGs of one size and quality as shards."""
    pictures = list(itertools.islice(real_images(images) if images else phantoms(num_images), num_images))
    if len(pictures) < NUM_SHARDS:
        raise UserError(f"--images {images}: {len(pictures)} images; at least {NUM_SHARDS} are needed")
    encoded = encode_to_size(pictures, 1000 * kilobytes)
    parts = np.array_split(np.arange(len(encoded)), NUM_SHARDS)
    infos = [
        write_shard(folder / f"shard-{number:06d}.tar", [(f"{index:016x}", encoded[index]) for index in part])
        for number, part in enumerate(parts)
    ]
    Manifest(tuple(infos)).save(folder)


def phantoms(num_images: int) -> Iterator[np.ndarray]:
    """Yield synthetic ultrasound."""
    source = Phantom(num_images, size=(HEIGHT, WIDTH))
    for unit in source.units():
        for sample in source.read(unit):
            yield sample.image


def real_images(folder: Path) -> Iterator[np.ndarray]:
    """Yield a folder's images, masks left out, in grey and scaled to the benchmark's size."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".png", ".jpg") and "mask" not in path.name:
            grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            yield cv2.resize(grey, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def encode_to_size(pictures: list[np.ndarray], num_bytes: float) -> list[bytes]:
    """Return JPEGs of the one quality whose mean size comes nearest, judged by a few."""

    def encode(some: list[np.ndarray], quality: int) -> list[bytes]:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        return [cv2.imencode(".jpg", picture, options)[1].tobytes() for picture in some]

    def error(quality: int) -> float:
        return abs(mean(map(len, encode(few, quality))) - num_bytes)

    few = pictures[:: max(len(pictures) // 48, 1)]
    return encode(pictures, min(range(80, 101), key=error))


def write_shard(path: Path, members: list[tuple[str, bytes]]) -> ShardInfo:
    """Write keys and JPEGs as one shard."""
    with webdataset.TarWriter(str(path), mtime=0) as tar:
        for key, encoded in members:
            record = {"anatomy": "other", "source": "benchmark", "name": key, "patient": None, "video": None}
            tar.write({"__key__": key, "jpg": encoded, "json": json.dumps(record).encode()})
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return ShardInfo(path.name, len(members), len(content), digest, {"other": len(members)})


def read_images(shards: Path) -> Iterator[bytes]:
    """Yield the encoded images of all shards, one of each in turn."""
    files = [io.BytesIO(path.read_bytes()) for path in sorted(shards.glob("*.tar"))]
    entries = [[entry.image.read(file) for entry in walk_entries(file)] for file in files]
    for row in itertools.zip_longest(*entries):
        yield from (image for image in row if image is not None)


def describe(encoded: list[bytes]) -> str:
    """Return the files' number and medians in words."""
    shapes = np.array([decode_image(image, 1).shape for image in encoded])
    height, width = np.median(shapes, axis=0)
    return f"{len(encoded)} grey files, {mean(map(len, encoded)) / 1000:.0f} kB, median {height:.0f} x {width:.0f}"


if __name__ == "__main__":
    print(auto_cli(benchmark))
