"""Times every stage of the stream on one core, in this process."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch

from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.data.stream.collate import stack
from arl_lightning.data.stream.records import BadSampleError, RawSample
from arl_lightning.data.stream.transform import PretrainingSample, PretrainingTransform, decode_image
from arl_lightning.errors import UserError


@dataclass(frozen=True)
class StageTimes:
    """CPU seconds an image, medians over rounds, and what an image is.

    Attributes:
        read: From the shards to encoded images and records, in the stream's order.
        decode: From encoded images to pixels, as the stream does it.
        crop: From pixels to all views.
        collate: From views to batches.
        whole: The stream from shards to batches.
        raw: OpenCV's decoder alone on the same files, nothing around it: the limit.
        image_bytes: Mean size of an encoded image.
        record_bytes: Mean size of what is read for it, tar headers and padding included.
    """

    read: float
    decode: float
    crop: float
    collate: float
    whole: float
    raw: float
    image_bytes: float
    record_bytes: float


STAGES = tuple(field.name for field in fields(StageTimes))[:6]


def measure_stages(data: PretrainingDataModule, num_images: int = 384, rounds: int = 5) -> StageTimes:
    """Time the stages of a DataModule without workers in turn, several times, so that a disturbance falls on all.

    Args:
        data: Its batch size, views and channels count; `num_workers` must be 0.
        num_images: Images of each stage and round, rounded up to batches.
        rounds: How often.

    Raises:
        UserError: If none of these images can be decoded, or a number is below 1.
    """
    for name, value in (("num_images", num_images), ("rounds", rounds)):
        if value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    num_batches = -(-num_images // data.batch_size)
    with one_thread():
        stages = _Stages(data, num_batches)
        taken: dict[str, list[float]] = {name: [] for name in STAGES}
        for _ in range(rounds):
            for name in STAGES:
                run: Callable[[], object] = getattr(stages, name)
                start = time.process_time()
                run()
                taken[name].append((time.process_time() - start) / stages.count(name))
    corpus = data.corpus
    seconds = {name: median(times) for name, times in taken.items()}
    return StageTimes(
        **seconds, image_bytes=stages.image_bytes, record_bytes=corpus.num_bytes / max(corpus.num_samples, 1)
    )


class _Stages:
    """Each stage's work on the same images."""

    def __init__(self, data: PretrainingDataModule, num_batches: int) -> None:
        self.data = data
        self.num_batches = num_batches
        self.transform: PretrainingTransform = data.transform
        self._reads = _raw_samples(data)
        self.raws = self._decodable(self.read())
        self.encoded = [_encoded(raw) for raw in self.raws]
        self.image_bytes = sum(map(len, self.encoded)) / len(self.encoded)
        # Pixels and views of one batch alone: those of all images would not fit where the stream has its own.
        first = self.raws[: data.batch_size]
        self.images = [decode_image(_encoded(raw), self.transform.in_chans) for raw in first]
        self.samples: list[PretrainingSample] = [self.transform(raw, seed) for seed, raw in enumerate(first)]
        self.batches = iter(data.train_dataloader())
        next(self.batches)

    def count(self, name: str) -> int:
        """Return the images that a stage works on each time."""
        if name in ("decode", "raw"):
            return len(self.raws)
        return self.num_batches * (len(self.samples) if name in ("crop", "collate") else self.data.batch_size)

    def read(self) -> list[RawSample]:
        return list(itertools.islice(self._reads, self.num_batches * self.data.batch_size))

    def decode(self) -> None:
        for encoded in self.encoded:
            decode_image(encoded, self.transform.in_chans)

    def crop(self) -> None:
        for _ in range(self.num_batches):
            for seed, image in enumerate(self.images):
                self.transform.multi_crop(image, np.random.default_rng(seed))

    def collate(self) -> None:
        for _ in range(self.num_batches):
            stack(self.samples, len(self.samples), {})

    def whole(self) -> None:
        for _ in range(self.num_batches):
            next(self.batches)

    def raw(self) -> None:
        flag = cv2.IMREAD_GRAYSCALE if self.transform.in_chans == 1 else cv2.IMREAD_COLOR
        for encoded in self.encoded:
            cv2.imdecode(np.frombuffer(encoded, np.uint8), flag)

    def _decodable(self, raws: list[RawSample]) -> list[RawSample]:
        found = [raw for raw in raws if self._can_decode(raw)]
        if not found:
            raise UserError(f"{raws[0]['__url__']}: none of {len(raws)} images can be decoded; `arl shards verify` it")
        return found

    def _can_decode(self, raw: RawSample) -> bool:
        try:
            self.transform(raw, 0)
        except BadSampleError:
            return False
        return True


def _encoded(raw: RawSample) -> bytes:
    return raw.get("jpg") or raw.get("png") or b""


def _raw_samples(data: PretrainingDataModule) -> Iterator[RawSample]:
    stream: Any = data.train_dataloader().stream
    stream.transform = lambda raw, seed: raw
    return iter(stream)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let OpenCV and torch use this thread alone, as in a worker."""
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)
