"""Reads a shard's records, forwards, and tries again where that fails."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from types import TracebackType
from typing import Any

from arl_lightning.data.shards.tars import TarDamageError, walk_members
from arl_lightning.data.stream.cache import Cache
from arl_lightning.data.stream.epoch import CHUNK, Piece, chunk_order
from arl_lightning.data.stream.storage import ByteStream, Shard, ShardError, open_stream, reason_of

# One sample: `__key__`, `__url__`, and the bytes of each member by extension.
RawSample = dict[str, Any]


class BadSampleError(ValueError):
    """One sample that cannot be decoded."""


@dataclass(frozen=True)
class RecordReader:
    """Reads pieces of shards.

    Args:
        cache: Where shards are copied to first, None to read them where they lie.
        retries: Attempts after a first one that failed.
        first_wait: Seconds before the second attempt; each later wait is twice as long.
        sleep: Waits so many seconds.
    """

    cache: Cache | None = None
    retries: int = 4
    first_wait: float = 0.5
    sleep: Callable[[float], None] = time.sleep

    def without_retries(self) -> "RecordReader":
        """Return one that gives up at the first failure."""
        return dataclasses.replace(self, retries=0)

    def open(self, shard: Shard) -> ByteStream:
        """Open a shard."""
        return self.cache.open(shard) if self.cache else open_stream(shard.url)

    def read(self, shard: Shard, piece: Piece, seed: int, epoch: int) -> Iterator[RawSample]:
        """Yield a piece's samples in an epoch's order; a chunk is read whole before the first of it is yielded.

        Raises:
            ShardError: If a chunk cannot be read, whatever was tried.
        """
        with _Tape(shard, self) as tape:
            for chunk in range(piece.start // CHUNK, -(-piece.stop // CHUNK)):
                first = chunk * CHUNK
                order = chunk_order(seed, epoch, shard, chunk)[max(piece.start - first, 0) : piece.stop - first]
                records = tape.read(sorted(order))
                for record in order:
                    yield records.pop(record)


class _Tape:
    """One shard, opened when it is first read, and again after a failure."""

    def __init__(self, shard: Shard, reader: RecordReader) -> None:
        self.shard = shard
        self.reader = reader
        self._stream: ByteStream | None = None
        self._records: _Records | None = None

    def __enter__(self) -> "_Tape":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def read(self, places: Sequence[int]) -> dict[int, RawSample]:
        """Return the records at ascending places, all behind those that were read before."""
        attempt = 0
        while True:
            try:
                return self._read(places)
            except (OSError, ShardError, TarDamageError) as error:
                reason = (self._stream.reason_for_end() if self._stream else "") or reason_of(error)
                self._close()
                if self.reader.cache:
                    self.reader.cache.discard(self.shard)
                if attempt >= self.reader.retries:
                    raise ShardError(reason) from error
            self.reader.sleep(self.reader.first_wait * 2**attempt)
            attempt += 1

    def _read(self, places: Sequence[int]) -> dict[int, RawSample]:
        if self._records is None:
            self._stream = self.reader.open(self.shard)
            self._records = _Records(self._stream, self.shard)
        found = {}
        for place in places:
            self._records.skip(place - self._records.num_passed)
            found[place] = self._records.read()
        return found

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = self._records = None


class _Records:
    """A tar's records, one after another."""

    def __init__(self, stream: ByteStream, shard: Shard) -> None:
        self.num_passed = 0
        self._stream = stream
        self._shard = shard
        self._groups = groupby(walk_members(stream), key=attrgetter("key"))

    def skip(self, num: int) -> None:
        """Pass over so many records."""
        for _ in range(num):
            self._next()

    def read(self) -> RawSample:
        """Return the next record."""
        key, members = self._next()
        raw: RawSample = {"__key__": key, "__url__": self._shard.url}
        for member in members:
            raw[member.extension] = content = self._stream.read(member.size)
            if len(content) < member.size:
                raise ShardError(f"ends within sample {self.num_passed} of {self._shard.num_samples}")
        return raw

    def _next(self) -> tuple[str, Iterator[Any]]:
        try:
            group = next(self._groups)
        except StopIteration:
            raise ShardError(f"ends after {self.num_passed} of {self._shard.num_samples} samples") from None
        self.num_passed += 1
        return group
