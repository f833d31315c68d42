"""Endless, deterministic stream of samples from packed shards.

`epoch.py` says what is read, `records.py` reads it, and this joins the two for a DataLoader: a place in the stream is
a number of batches, so getting there decodes nothing, leaves all shards closed but the few that are open there, and
passes over their records by their headers.
"""

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import cv2
import torch
from torch.utils.data import IterableDataset, get_worker_info

from arl_lightning.data.seeds import sample_seed
from arl_lightning.data.stream.cache import Cache
from arl_lightning.data.stream.corpus import Corpus
from arl_lightning.data.stream.damage import Damage, Tally
from arl_lightning.data.stream.epoch import EpochPlan, Layout, Piece, Segment
from arl_lightning.data.stream.interleave import interleave, open_after
from arl_lightning.data.stream.records import BadSampleError, RawSample, RecordReader
from arl_lightning.data.stream.storage import ShardError
from arl_lightning.errors import UserError

# A worker that finds only undecodable images would keep all ranks waiting for ever.
MAX_BAD_RUN = 10_000

T = TypeVar("T")


class Place(NamedTuple):
    """What goes to one place of the stream: a raw sample, the seed of the place, and the shard it was read from."""

    raw: RawSample
    seed: int
    shard: int


class ShardStream(IterableDataset[T], Generic[T]):
    """Yields one rank's samples for a DataLoader with this batch size and number of workers, without an end.

    Places never shift, whatever cannot be used: ranks stay in step, and samples keep their seeds. An undecodable image
    is named in a warning, and its place goes to the next decodable one with the draws of the place. A shard that
    cannot be read is tried again, with waits in between, and then named in a warning; until the epoch's end its places
    go to the next readable shard's samples at the same positions. `damage` counts both.

    `len()` is the rank's samples in a whole epoch, a multiple of the batch size.

    Args:
        corpus: The shards.
        transform: Makes a sample from its raw form and its seed; raises BadSampleError if it cannot be decoded.
        batch_size: Samples in one rank's batch.
        seed: Changes the order and every sample's seed.
        rank: This process among `world_size`.
        world_size: Processes that share the corpus.
        num_workers: As the DataLoader's; 0 reads in the calling process.
        open_shards: Shards that a worker reads in turn.
        cache_folder: Where each shard is copied to when it is first used; None reads them where they lie.
        read_retries: Further attempts at a shard that cannot be read.
        sleep: Waits so many seconds before the next attempt.

    Raises:
        UserError: If there are fewer shards than ranks x workers, or fewer samples than one batch for each rank.
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
        cache_folder: Path | None = None,
        read_retries: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.corpus = corpus
        self.transform = transform
        self.rank = rank
        self.layout = Layout(batch_size, world_size, num_workers, open_shards)
        self.seed = seed
        self.plan = EpochPlan(corpus.shards, seed, self.layout)
        self.reader = RecordReader(Cache(cache_folder) if cache_folder else None, read_retries, sleep=sleep)
        self.damage = Damage(self.layout.slots_per_rank, len(corpus.shards))
        # Shared memory: persistent workers keep their copy of the stream and must see where to go next.
        self._start = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self.corpus.num_samples // self.plan.global_batch * self.layout.batch_size

    def seek(self, num_batches: int, segment: Segment | None = None) -> None:
        """Let the next iteration start behind this many of the rank's batches, counted from the run's first.

        Args:
            num_batches: The batches.
            segment: Of a run that was resumed with another layout; persistent workers keep the one they began with.
        """
        if segment is not None:
            self.plan = EpochPlan(self.corpus.shards, self.seed, self.layout, segment)
        self._start.fill_(num_batches)

    def __iter__(self) -> Iterator[T]:
        info = get_worker_info()
        if info is not None:
            cv2.setNumThreads(0)
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        if num_workers != self.layout.slots_per_rank:
            raise ValueError(f"a stream for {self.layout.slots_per_rank} workers is read by {num_workers}")
        tally = self.damage.of_worker(worker)
        return self._decoded(self._places(int(self._start) + worker, tally), tally)

    def _decoded(self, places: Iterator[Place], tally: Tally) -> Iterator[T]:
        """Yield one sample for each place."""
        waiting: list[int] = []  # seeds of places without an image, the present one last
        for raw, seed, shard in places:
            tally.num_read[0] += 1
            waiting.append(seed)
            try:
                samples = [self.transform(raw, each) for each in waiting]
            except BadSampleError as error:
                tally.undecodable[shard] += 1
                warnings.warn(f"{raw['__url__']}: {raw['__key__']}: skipped: {error}", stacklevel=2)
                if len(waiting) >= MAX_BAD_RUN:
                    raise UserError(
                        f"{raw['__url__']}: {MAX_BAD_RUN} undecodable images in a row; pack the shards again"
                    ) from error
                continue
            waiting.clear()
            yield from samples

    def _places(self, num_batches: int, tally: Tally) -> Iterator[Place]:
        """Yield the places of a batch and of every one that is a multiple of the workers behind it.

        A DataLoader takes batch i of its iteration from worker i % num_workers, so these are one worker's, wherever
        the iteration starts.
        """
        layout = self.layout
        while True:
            epoch, behind = self.plan.locate(num_batches)
            num_behind, worker = divmod(behind, layout.slots_per_rank)
            pieces = self.plan.slot(epoch, self.rank, worker)
            sizes = [piece.size for piece in pieces]
            opened, following = open_after(sizes, layout.open_shards, num_behind * layout.batch_size)
            lost: set[int] = set()
            begun = [pieces[index]._replace(start=pieces[index].start + used) for index, used in opened]
            yield from interleave(
                [self._piece(piece, epoch, lost, tally) for piece in begun],
                (self._piece(piece, epoch, lost, tally) for piece in itertools.islice(pieces, following, None)),
            )
            num_batches += (sum(sizes) // layout.batch_size - num_behind) * layout.slots_per_rank

    def _piece(self, piece: Piece, epoch: int, lost: set[int], tally: Tally) -> Iterator[Place]:
        """Yield a piece's places, from other shards once this one is lost."""
        num_read = 0
        if piece.shard not in lost:
            try:
                for raw in self._read(self.reader, piece, epoch):
                    yield Place(raw, sample_seed(self.seed, epoch, raw["__key__"]), piece.shard)
                    num_read += 1
                return
            except ShardError as error:
                self._lose(piece.shard, error, lost, tally)
        yield from self._substitutes(piece._replace(start=piece.start + num_read), epoch, lost, tally)

    def _substitutes(self, piece: Piece, epoch: int, lost: set[int], tally: Tally) -> Iterator[Place]:
        """Yield samples of the next readable shards, at the same positions counted round, with seeds of their own."""
        order = self.plan.shard_order(epoch)
        after = order.index(piece.shard) + 1
        once = self.reader.without_retries()
        position, absent = piece.start, self.corpus.shards[piece.shard].sha256
        for shard in order[after:] + order[:after]:
            while shard not in lost and position < piece.stop:
                size = self.corpus.shards[shard].num_samples
                first = position % size
                part = Piece(shard, first, min(first + piece.stop - position, size))
                try:
                    for raw in self._read(once, part, epoch):
                        tally.displaced[piece.shard] += 1
                        yield Place(
                            raw, sample_seed(self.seed, epoch, f"{raw['__key__']} for {absent} {position}"), shard
                        )
                        position += 1
                except ShardError as error:
                    self._lose(shard, error, lost, tally)
        if position < piece.stop:
            raise UserError(
                f"{self.corpus.shards[piece.shard].url}: cannot be read, nor can any other of {len(order)} shards; see"
                " that the storage can be reached, then go on from the last checkpoint"
            )

    def _read(self, reader: RecordReader, piece: Piece, epoch: int) -> Iterator[RawSample]:
        return reader.read(self.corpus.shards[piece.shard], piece, self.seed, epoch)

    def _lose(self, shard: int, error: ShardError, lost: set[int], tally: Tally) -> None:
        lost.add(shard)
        if not self.damage.is_known(shard):
            warnings.warn(
                f"{self.corpus.shards[shard].url}: skipped, its samples are replaced until the epoch's end: {error}",
                stacklevel=2,
            )
        tally.lost[shard] = 1
