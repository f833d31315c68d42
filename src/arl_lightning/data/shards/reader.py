"""Endless, deterministic stream of samples from packed shards.

Ranks x workers are the slots. Every epoch has its own order of all shards, and slot s takes shards s, s + slots, ...
A slot reads a few of its shards in turn, one record from each, and permutes each shard in fixed chunks. All of it
follows from (seed, epoch) and the manifest's counts, so a place in the stream is a number of batches: getting there
decodes nothing, leaves the shards before it closed and reads only the tar records before it in the few that are open.

Every slot yields the same number of batches in an epoch, num_samples // (slots * batch_size). A slot whose shards hold
fewer samples starts them again, with other views; one whose shards hold more leaves the rest for another epoch's order.
"""

import hashlib
import itertools
import tarfile
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import cv2
import torch
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.gopen import gopen
from webdataset.tariterators import group_by_keys, tar_file_expander

from arl_lightning.data.seeds import sample_seed
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.errors import UserError

# Records permuted together; a worker holds this many encoded images of each open shard.
CHUNK = 64
# The share of undecodable images says little before a worker has read this many.
MIN_JUDGED = 100

# One sample as webdataset yields it: `__key__`, `__url__`, and the bytes of each member by extension.
RawSample = dict[str, Any]
T = TypeVar("T")


class BadSampleError(ValueError):
    """One sample that cannot be decoded."""


@dataclass(frozen=True)
class Shard:
    """A shard file and what the manifest says of it."""

    path: Path
    num_samples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """The shards of one or more packed folders, with the number of samples of each anatomy."""

    shards: tuple[Shard, ...]
    anatomies: dict[str, int]

    @classmethod
    def load(cls, folders: Sequence[Path]) -> "Corpus":
        """Read the folders' manifests and see that every shard is there at its full size.

        Raises:
            UserError: If a manifest is missing or not one of ours, or a shard is missing or of another size.
        """
        shards: list[Shard] = []
        anatomies: Counter[str] = Counter()
        for folder in folders:
            manifest = Manifest.load(folder)
            anatomies.update(manifest.anatomies)
            shards += [
                Shard(folder / info.name, info.num_samples, info.num_bytes, info.sha256)
                for info in manifest.shards
                if info.num_samples
            ]
        _check_files(shards)
        return cls(tuple(shards), dict(anatomies))

    @property
    def num_samples(self) -> int:
        """Samples in all shards together."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def sha256(self) -> str:
        """Identifies the shards' contents, wherever they lie and in whatever order they are named."""
        return hashlib.sha256("".join(sorted(shard.sha256 for shard in self.shards)).encode()).hexdigest()


class ShardStream(IterableDataset[T], Generic[T]):
    """Yields one rank's samples for a DataLoader with this batch size and number of workers, without an end.

    An undecodable image is named in a warning, and its place goes to the next decodable one with the draws of the
    place: places never shift, whichever of them are bad.

    Args:
        corpus: The shards.
        transform: Makes a sample from its raw form and its seed; raises BadSampleError if it cannot be decoded.
        batch_size: Samples in one rank's batch.
        seed: Changes the order and every sample's seed.
        rank: This process among `world_size`.
        world_size: Processes that share the corpus.
        num_workers: As the DataLoader's; 0 reads in the calling process.
        open_shards: Shards that a worker reads in turn.
        max_bad_share: Largest share of undecodable images among those that a worker has read.

    Raises:
        UserError: If there are fewer shards than slots, or fewer samples than one batch for each slot.
    """

    def __init__(
        self,
        corpus: Corpus,
        transform: Callable[[RawSample, int], T],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        open_shards: int = 4,
        max_bad_share: float = 0.01,
    ) -> None:
        self.corpus = corpus
        self.transform = transform
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.num_slot_workers = max(num_workers, 1)
        self.num_slots = world_size * self.num_slot_workers
        self.open_shards = open_shards
        self.max_bad_share = max_bad_share
        self.batches_per_slot = batches_per_slot(corpus, batch_size, world_size, num_workers)
        # Shared memory: persistent workers keep their copy of the stream and must see where to go next.
        self._start = torch.zeros((), dtype=torch.int64).share_memory_()

    def seek(self, num_batches: int) -> None:
        """Let the next iteration start behind this many of the rank's batches, counted from the run's first."""
        self._start.fill_(num_batches)

    def __iter__(self) -> Iterator[T]:
        # A DataLoader takes batch i of this iteration from worker i % num_workers, whatever the start.
        worker = get_worker_info()
        if worker is not None:
            cv2.setNumThreads(0)
        num_workers = worker.num_workers if worker else 1
        if num_workers != self.num_slot_workers:
            raise ValueError(f"a stream for {self.num_slot_workers} workers is read by {num_workers}")
        first = int(self._start) + (worker.id if worker else 0)
        own, slot = divmod(first, self.num_slot_workers)
        epoch, behind = divmod(own, self.batches_per_slot)
        return self._decoded(self._places(self.rank * self.num_slot_workers + slot, epoch, behind * self.batch_size))

    def _decoded(self, places: Iterator[tuple[RawSample, int]]) -> Iterator[T]:
        """Yield one sample for each place, a raw sample with a seed."""
        num_bad = 0
        waiting: list[int] = []  # seeds of places without an image, the present one last
        for num_read, (raw, seed) in enumerate(places, start=1):
            waiting.append(seed)
            try:
                samples = [self.transform(raw, each) for each in waiting]
            except BadSampleError as error:
                num_bad += 1
                warnings.warn(f"{raw['__url__']}: {raw['__key__']}: skipped: {error}", stacklevel=2)
                self._check_bad_share(num_bad, num_read, raw["__url__"])
                continue
            waiting.clear()
            yield from samples

    def _check_bad_share(self, num_bad: int, num_read: int, path: str) -> None:
        if num_read >= MIN_JUDGED and num_bad > self.max_bad_share * num_read:
            raise UserError(
                f"{path}: {num_bad} of {num_read} images read by one worker cannot be decoded, more than"
                f" {self.max_bad_share:.1%}; pack the shards again"
            )

    def _places(self, slot: int, epoch: int, num_skipped: int) -> Iterator[tuple[RawSample, int]]:
        """Yield a slot's raw samples and their seeds from a place in an epoch on, epoch after epoch."""
        while True:
            shards = self._epoch_order(epoch)[slot :: self.num_slots]
            turns = interleave([shard.num_samples for shard in shards], self.open_shards)
            readers: dict[tuple[int, int], Iterator[RawSample]] = {}
            for lap, index, nth in itertools.islice(turns, num_skipped, self.batches_per_slot * self.batch_size):
                reader = readers.pop((lap, index), None) or self._read(shards[index], epoch, nth)
                raw = next(reader)
                if nth + 1 < shards[index].num_samples:
                    readers[lap, index] = reader
                yield raw, sample_seed(self.seed, epoch, f"{raw['__key__']} lap {lap}" if lap else raw["__key__"])
            epoch, num_skipped = epoch + 1, 0

    def _epoch_order(self, epoch: int) -> list[Shard]:
        return sorted(self.corpus.shards, key=lambda shard: sample_seed(self.seed, epoch, f"shard {shard.sha256}"))

    def _read(self, shard: Shard, epoch: int, num_skipped: int) -> Iterator[RawSample]:
        """Yield a shard's samples in its order for an epoch, without the first ones."""
        raw_samples = read_shard(shard)
        whole, within = divmod(num_skipped, CHUNK)
        for _ in range(whole * CHUNK):
            next(raw_samples)
        while chunk := list(itertools.islice(raw_samples, CHUNK)):
            chunk.sort(key=lambda raw: sample_seed(self.seed, epoch, f"place {raw['__key__']}"))
            yield from chunk[within:]
            within = 0


class Turn(NamedTuple):
    """The nth sample of a shard, in the lap-th reading of all shards."""

    lap: int
    shard: int
    nth: int


def interleave(num_samples: Sequence[int], open_shards: int) -> Iterator[Turn]:
    """Yield whose turn it is, endlessly: a few shards in turn, the next one in the place of one that ended."""
    for lap in itertools.count():
        following = iter(range(len(num_samples)))
        opened = deque((shard, 0) for shard in itertools.islice(following, open_shards))
        while opened:
            shard, nth = opened.popleft()
            yield Turn(lap, shard, nth)
            if nth + 1 < num_samples[shard]:
                opened.append((shard, nth + 1))
            else:
                opened.extend((new, 0) for new in itertools.islice(following, 1))


def read_shard(shard: Shard) -> Iterator[RawSample]:
    """Yield a shard's samples in packing order.

    Raises:
        UserError: If the file is gone, broken off, or holds fewer samples than the manifest says.
    """
    num_read = 0
    try:
        with gopen(str(shard.path), "rb") as stream:
            for raw in group_by_keys(tar_file_expander([{"url": str(shard.path), "stream": stream}])):
                num_read += 1
                yield raw
    except (OSError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error.args[0]  # webdataset appends to a tar error's arguments
        raise UserError(f"{shard.path}: cannot be read ({reason}); copy or pack the shard again") from error
    if num_read < shard.num_samples:
        raise UserError(
            f"{shard.path}: ends after {num_read} of {shard.num_samples} samples; copy or pack the shard again"
        )


def batches_per_slot(corpus: Corpus, batch_size: int, world_size: int, num_workers: int) -> int:
    """Return the batches that each worker of each rank yields in an epoch.

    Raises:
        UserError: If there are fewer shards than slots, or fewer samples than one batch for each slot.
    """
    slots = f"{world_size} ranks x {max(num_workers, 1)} workers"
    if len(corpus.shards) < world_size * max(num_workers, 1):
        raise UserError(
            f"{len(corpus.shards)} shards for {slots}: pack smaller shards (--samples_per_shard) or use fewer workers"
            " (--data.num_workers)"
        )
    num_batches = corpus.num_samples // (world_size * max(num_workers, 1) * batch_size)
    if num_batches == 0:
        raise UserError(
            f"{corpus.num_samples} samples for {slots} x batches of {batch_size}: use a smaller batch"
            " (--data.batch_size) or fewer workers (--data.num_workers)"
        )
    return num_batches


def _check_files(shards: Sequence[Shard]) -> None:
    missing = [shard.path for shard in shards if not shard.path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]}: missing, {len(missing)} of {len(shards)} shards are; copy them again, or pack again"
        )
    unequal = [(shard, size) for shard in shards if (size := shard.path.stat().st_size) != shard.num_bytes]
    if unequal:
        shard, size = unequal[0]
        raise UserError(
            f"{shard.path}: {size} bytes where the manifest says {shard.num_bytes}, {len(unequal)} of {len(shards)}"
            " shards differ; copy them again, or pack again"
        )
