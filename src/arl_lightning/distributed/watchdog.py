"""A watch over all ranks of a run: one that stands still ends with a line that names the ranks it waits for.

Every rank writes to the store of its process group how far it is, through a connection of its own, so that no exchange
between ranks is needed to tell that exchanges have stopped. Clocks of two nodes are never compared: a rank is gone if
its beats, read twice, have not moved.
"""

import atexit
import faulthandler
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TypeVar

from torch.distributed import TCPStore

from arl_lightning.distributed.failures import leave, write
from arl_lightning.distributed.slurm import host_name

Result = TypeVar("Result")

STALLED = 1  # exit status
BEAT_SECONDS = 1.0
BEATS_MISSED = 4  # of a rank that is gone
ANSWER_SECONDS = 10.0  # of a store that is there
FIRST_ANSWER_SECONDS = 120.0  # while all ranks connect
LAST_WORDS_SECONDS = 3.0  # for the rank that speaks, before the others end and srun ends it
FAREWELL_SECONDS = 90.0  # for a rank that has failed to end by itself, a save under way included
NAMED = 8  # ranks in a line


@dataclass(frozen=True)
class Record:
    """How far a rank is.

    Attributes:
        host: Its node.
        progress: Number of marks, the same on all ranks that are equally far.
        doing: What it is about.
        beat: Moves as long as its process lives.
        failed: Its error, once it has one.
        told: It has told the user whom it waits for, and ends.
    """

    host: str
    progress: int = 0
    doing: str = "starting"
    beat: int = 0
    failed: str | None = None
    told: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whom a rank waits for.

    Attributes:
        missing: What is known of each rank that is gone, has failed or is behind.
        speaker: The first of the others, which tells the user; rank 0 where it has, and has ended.
    """

    missing: dict[int, str]
    speaker: int

    def __str__(self) -> str:
        words = [f"rank {rank} {said}" for rank, said in sorted(self.missing.items())]
        rest = [f"and {len(words) - NAMED} more"] if len(words) > NAMED else []
        return ", ".join(words[:NAMED] + rest)


class Watchdog:
    """Beats for this rank and ends its process when it has not moved for too long.

    Args:
        rank: This rank.
        world_size: Number of ranks.
        address: Of the store.
        port: Of the store.
        seconds: That a rank may stand still.
        beat_seconds: Between two records.
    """

    def __init__(
        self, rank: int, world_size: int, address: str, port: int, seconds: float, beat_seconds: float = BEAT_SECONDS
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self.address, self.port = address, port
        self.seconds, self.beat_seconds = seconds, beat_seconds
        self.record = Record(host_name())
        self._first: Record | None = None  # rank 0's, with which the store goes
        self._lock = threading.Lock()
        self.ends = False  # it has found a stall: its line is the one that counts
        self._stopped = threading.Event()
        self._moved, self._limit = time.monotonic(), seconds
        self._threads: list[threading.Thread] = []

    def start(self, patience: float = 1.0) -> None:
        """Begin; every rank's record is in the store once all of them have returned from here and met."""
        self._limit = self.seconds * patience
        self._connect(FIRST_ANSWER_SECONDS).set(self._key(self.rank), self._beat())
        targets = (self._beats, self._judges)
        self._threads = [
            threading.Thread(target=each, name=f"watchdog{each.__name__}", daemon=True) for each in targets
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Watch no more, at the latest from the interpreter's end: a thread that is inside the store then aborts it."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(ANSWER_SECONDS)
        atexit.unregister(self.stop)

    def mark(self, doing: str, patience: float = 1.0) -> None:
        """Note that this rank has moved, on to something that may take `patience` times as long as usual."""
        with self._lock:
            self.record = replace(self.record, progress=self.record.progress + 1, doing=doing)
            self._moved, self._limit = time.monotonic(), self.seconds * patience

    def fail(self, error: str | None) -> None:
        """Tell the others of this rank's error, if it is its own; its process ends soon, however its teardown goes."""
        with self._lock:
            self.record = replace(self.record, failed=error)
            self._moved, self._limit = time.monotonic(), FAREWELL_SECONDS
        self._write()

    def tell(self, line: str) -> None:
        """Tell the user whom this rank waits for, once, whether its step or this watch was the first to notice.

        Others that ask only when it has ended need not say that it has.
        """
        with self._lock:
            if self.record.told:
                return
            self.record = replace(self.record, told=True)
        write(f"arl: error: rank {self.rank} ({self.record.host}): {line}\n")
        self._write()

    def verdict(self) -> Verdict:
        """Look twice, some beats apart, at all ranks; takes seconds."""
        before = self._read()
        self._stopped.wait(BEATS_MISSED * self.beat_seconds)
        return judge(before, self._read(), self.world_size, self._first)

    def failure_of(self, rank: int) -> str | None:
        """Return another rank's error, if it has told of one."""
        record = self._read().get(rank)
        return record.failed if record else None

    # ---------------------------------------------------------------- the store

    def _key(self, rank: int) -> str:
        return f"arl/watchdog/{rank}"

    def _connect(self, seconds: float = ANSWER_SECONDS) -> TCPStore:
        # The store would go on trying, as if the other side had not started yet.
        socket.create_connection((self.address, self.port), seconds).close()
        answers = timedelta(seconds=seconds)
        return TCPStore(self.address, self.port, is_master=False, wait_for_workers=False, timeout=answers)

    def _beat(self) -> str:
        with self._lock:
            self.record = replace(self.record, beat=self.record.beat + 1)
            return json.dumps(asdict(self.record))

    def _beats(self) -> None:
        store = None
        while not self._stopped.wait(self.beat_seconds):
            try:
                store = store or self._connect()
                store.set(self._key(self.rank), self._beat())
                self._first = Record(**json.loads(store.get(self._key(0))))
            except (RuntimeError, OSError):  # gone with rank 0, or for a moment: the judge looks at what was last known
                store = None

    def _write(self) -> None:
        _within(ANSWER_SECONDS, lambda: self._connect().set(self._key(self.rank), self._beat()))

    def _read(self) -> dict[int, Record]:
        """Return what all ranks have last written; none where the store does not answer."""

        def ask() -> dict[int, Record]:
            keys = [self._key(rank) for rank in range(self.world_size)]
            return {rank: Record(**json.loads(said)) for rank, said in enumerate(self._connect().multi_get(keys))}

        return _within(ANSWER_SECONDS, ask) or {}

    # ---------------------------------------------------------------- the end

    def _judges(self) -> None:
        looked = time.monotonic()
        while not self._stopped.wait(self.beat_seconds / 2):
            since, looked = time.monotonic() - looked, time.monotonic()
            if since > BEATS_MISSED * self.beat_seconds:  # this process itself was stopped
                self._moved += since
            if time.monotonic() - self._moved > self._limit:
                self._end()

    def _end(self) -> None:
        stood, record = time.monotonic() - self._moved, self.record
        verdict = self.verdict()
        if self._stopped.is_set() or record.progress != self.record.progress:
            return
        self.ends = True
        if self.rank in verdict.missing or self.rank == verdict.speaker:
            write(f"arl: rank {self.rank} ({record.host}) stands here:\n")
            faulthandler.dump_traceback(all_threads=True)
        if self.rank == verdict.speaker and record.failed is None:
            waited = f"{record.doing} has not ended for {stood:.0f} s"
            self.tell(f"{waited}; {verdict if verdict.missing else ALL_ALIKE}")
        else:
            time.sleep(LAST_WORDS_SECONDS)  # also where it is missing: to the others it is still there
        if self.rank == 0:
            time.sleep(ANSWER_SECONDS)  # the others may still be looking
        leave(STALLED)


ALL_ALIKE = (
    "all ranks live and are equally far: the network between them, or an exchange that not all of them make; see the"
    " stack of each above"
)


def judge(before: dict[int, Record], now: dict[int, Record], world_size: int, first: Record | None = None) -> Verdict:
    """Say who is missing.

    Args:
        before: All ranks' records; none where the store, which is rank 0's, did not answer.
        now: The same, some beats later.
        world_size: Number of ranks.
        first: What was last known of rank 0, if anything.
    """
    if not now:
        first = before.get(0, first)
        told = first is not None and first.told
        return Verdict({0: _gone(first) if first else "is gone"}, speaker=0 if told else min(1, world_size - 1))
    furthest = max(record.progress for record in now.values())
    missing = {}
    for rank, record in now.items():
        if record.failed is not None or (rank in before and record.beat == before[rank].beat):
            missing[rank] = _gone(record)
        elif record.progress < furthest:
            missing[rank] = f"({record.host}) is still {record.doing}"
    present = [rank for rank in range(world_size) if rank not in missing]
    return Verdict(missing, speaker=min(present, default=0))


def _gone(record: Record) -> str:
    if record.failed is not None:
        return f"({record.host}) failed: {record.failed}"
    return f"({record.host}) is gone, last seen {record.doing}"


def _within(seconds: float, function: Callable[[], Result]) -> Result | None:
    """Return what a function returns; None if it fails or takes longer, as one does that asks a stopped process."""
    results: list[Result] = []

    def run() -> None:
        try:
            results.append(function())
        except (RuntimeError, OSError):
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None
