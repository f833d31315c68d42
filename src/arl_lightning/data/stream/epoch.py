"""The order of an epoch and its division among ranks and workers: counting alone, nothing is read.

An epoch takes all shards in an order of its own. Within a shard, fixed chunks of records are permuted; a *position* 0
to n - 1 counts a shard's records in that order. Both follow from (seed, epoch, checksums). The positions of all shards,
one after another, are cut into a run for each rank, all equally long, and each rank's run into one for each of its
workers: a *slot*. Every sample is so seen at most once, every rank has the same number of batches, and less than one
batch of all ranks is dropped, another one in every epoch.

A slot's run is a list of pieces of shards. It takes one sample of each of a few pieces in turn. So the number of
batches behind says what every slot has consumed of every shard, and the rest can be cut anew for other ranks, workers
or batches: that is a `Segment`.
"""

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from arl_lightning.data.seeds import sample_seed
from arl_lightning.data.stream.interleave import consumed
from arl_lightning.data.stream.storage import Shard
from arl_lightning.errors import UserError

# Records permuted together; a worker holds this many encoded images of each open shard.
CHUNK = 64


class Piece(NamedTuple):
    """Positions `start` to `stop` of a shard, given by its index in the corpus."""

    shard: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Samples in it."""
        return self.stop - self.start


@dataclass(frozen=True)
class Layout:
    """Who shares an epoch, and how it is read.

    Attributes:
        batch_size: Samples in one rank's batch.
        world_size: Ranks.
        num_workers: DataLoader workers of each rank; 0 reads in the training process.
        open_shards: Shards that a slot reads in turn.
    """

    batch_size: int
    world_size: int = 1
    num_workers: int = 0
    open_shards: int = 4

    def __str__(self) -> str:
        return (
            f"{self.world_size} ranks x {self.num_workers} workers x batches of {self.batch_size},"
            f" {self.open_shards} open shards"
        )

    @property
    def slots_per_rank(self) -> int:
        """Readers of one rank."""
        return max(self.num_workers, 1)


@dataclass(frozen=True)
class Segment:
    """Where counting starts: the run's beginning, or a resumption with another layout.

    Attributes:
        first_batch: The trainer's batches behind it.
        epoch: The epoch that the next batch belongs to.
        ranges: What is left of that epoch, None for all of it; later epochs are whole.
    """

    first_batch: int = 0
    epoch: int = 0
    ranges: tuple[Piece, ...] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists."""
        ranges = None if self.ranges is None else [list(piece) for piece in self.ranges]
        return {"first_batch": self.first_batch, "epoch": self.epoch, "ranges": ranges}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Segment":
        """Undo `state_dict`."""
        ranges = None if state["ranges"] is None else tuple(Piece(*piece) for piece in state["ranges"])
        return cls(state["first_batch"], state["epoch"], ranges)


class EpochPlan:
    """Says what every slot reads, in any epoch.

    Args:
        shards: The corpus.
        seed: Changes all orders.
        layout: Who shares them.
        segment: Where counting starts.

    Raises:
        UserError: As `batches_per_epoch`.

    Attributes:
        whole: Batches of each rank in a whole epoch.
        global_batch: Samples in one batch of all ranks.
    """

    def __init__(self, shards: Sequence[Shard], seed: int, layout: Layout, segment: Segment | None = None) -> None:
        self.shards = shards
        self.seed = seed
        self.layout = layout
        self.segment = segment or Segment()
        self.global_batch = layout.world_size * layout.batch_size
        num_samples = sum(shard.num_samples for shard in shards)
        self.whole = batches_per_epoch(
            num_samples, len(shards), layout.world_size, layout.num_workers, layout.batch_size
        )

    def num_batches(self, epoch: int) -> int:
        """Return the batches of each rank in an epoch, or in what is left of the segment's first."""
        ranges = self._ranges(epoch)
        return self.whole if ranges is None else sum(piece.size for piece in ranges) // self.global_batch

    def locate(self, num_batches: int) -> tuple[int, int]:
        """Return the epoch of the next batch, and the batches behind it in that epoch.

        Args:
            num_batches: The trainer's batches behind it.
        """
        segment = self.segment
        behind = num_batches - segment.first_batch
        if behind < 0:
            raise ValueError(f"batch {num_batches} is before the segment, which starts at {segment.first_batch}")
        first = self.num_batches(segment.epoch)
        if behind < first:
            return segment.epoch, behind
        epochs, behind = divmod(behind - first, self.whole)
        return segment.epoch + 1 + epochs, behind

    def shard_order(self, epoch: int) -> list[int]:
        """Return the shards' indices in an epoch's order."""

        def draw(index: int) -> int:
            return sample_seed(self.seed, epoch, f"shard {self.shards[index].sha256}")

        return sorted(range(len(self.shards)), key=draw)

    def slot(self, epoch: int, rank: int, worker: int) -> list[Piece]:
        """Return what one worker of a rank reads in an epoch: a whole number of batches."""
        return self._slot(_Run(self._pieces(epoch)), self.num_batches(epoch), rank, worker)

    def segment_at(self, num_batches: int) -> Segment:
        """Return the simplest segment from which this layout goes on alike: that of the present epoch."""
        epoch, behind = self.locate(num_batches)
        return Segment(num_batches - behind, epoch, self._ranges(epoch))

    def remaining(self, num_batches: int) -> Segment:
        """Return the segment in which any layout goes on: what no slot has consumed once so many batches are behind."""
        epoch, behind = self.locate(num_batches)
        if behind == 0:
            return Segment(num_batches, epoch, self._ranges(epoch))
        run, total, workers = _Run(self._pieces(epoch)), self.num_batches(epoch), self.layout.slots_per_rank
        left = run.cut(self.layout.world_size * total * self.layout.batch_size, run.size)
        for rank, worker in itertools.product(range(self.layout.world_size), range(workers)):
            slot = self._slot(run, total, rank, worker)
            num_behind = _share(behind, workers, worker) * self.layout.batch_size
            used = consumed([piece.size for piece in slot], self.layout.open_shards, num_behind)
            left += [piece._replace(start=piece.start + num) for piece, num in zip(slot, used, strict=True)]
        return Segment(num_batches, epoch, tuple(merged(left)))

    def _ranges(self, epoch: int) -> tuple[Piece, ...] | None:
        return self.segment.ranges if epoch == self.segment.epoch else None

    def _pieces(self, epoch: int) -> list[Piece]:
        order = self.shard_order(epoch)
        ranges = self._ranges(epoch)
        if ranges is None:
            return [Piece(shard, 0, self.shards[shard].num_samples) for shard in order]
        places = {shard: place for place, shard in enumerate(order)}
        return sorted(ranges, key=lambda piece: (places[piece.shard], piece.start))

    def _slot(self, run: "_Run", num_batches: int, rank: int, worker: int) -> list[Piece]:
        workers = self.layout.slots_per_rank
        before = rank * num_batches + worker * (num_batches // workers) + min(worker, num_batches % workers)
        start = before * self.layout.batch_size
        return run.cut(start, start + _share(num_batches, workers, worker) * self.layout.batch_size)


class _Run:
    """Pieces one after another."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces = pieces
        self.ends = list(itertools.accumulate(piece.size for piece in pieces))
        self.size = self.ends[-1] if pieces else 0

    def cut(self, start: int, stop: int) -> list[Piece]:
        """Return the pieces of samples `start` to `stop`."""
        found = []
        for index in range(bisect.bisect_right(self.ends, start), len(self.pieces)):
            piece, end = self.pieces[index], self.ends[index]
            first = end - piece.size
            if first >= stop:
                break
            found.append(Piece(piece.shard, piece.start + max(start - first, 0), piece.stop - max(end - stop, 0)))
        return found


def _share(num_batches: int, workers: int, worker: int) -> int:
    """Return how many of a rank's batches a worker yields: batch i of an epoch is worker i % workers' one."""
    return num_batches // workers + (worker < num_batches % workers)


def batches_per_epoch(num_samples: int, num_shards: int, world_size: int, num_workers: int, batch_size: int) -> int:
    """Return the batches of each rank in one pass over a corpus.

    Raises:
        UserError: If there are fewer shards than ranks x workers, or fewer samples than a batch for each rank.
    """
    slots = world_size * max(num_workers, 1)
    if num_shards < slots:
        raise UserError(
            f"{num_shards} shards for {world_size} ranks x {max(num_workers, 1)} workers: pack smaller shards"
            " (--samples_per_shard) or use fewer workers (--data.num_workers)"
        )
    num_batches = num_samples // (world_size * batch_size)
    if num_batches == 0:
        raise UserError(
            f"{num_samples} samples for {world_size} ranks x batches of {batch_size}: use a smaller batch"
            " (--data.batch_size)"
        )
    return num_batches


def chunk_order(seed: int, epoch: int, shard: Shard, chunk: int) -> list[int]:
    """Return the places of a chunk's records, counted in the whole shard, in an epoch's order."""
    first = chunk * CHUNK
    records = range(first, min(first + CHUNK, shard.num_samples))
    return sorted(records, key=lambda record: sample_seed(seed, epoch, f"record {shard.sha256} {record}"))


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """Join pieces that touch, and leave out empty ones."""
    joined: list[Piece] = []
    for piece in sorted(piece for piece in pieces if piece.size):
        if joined and joined[-1].shard == piece.shard and joined[-1].stop == piece.start:
            joined[-1] = joined[-1]._replace(stop=piece.stop)
        else:
            joined.append(piece)
    return joined
