"""Runs three gloo ranks for each fault, all faults at once; forked, as importing torch takes longer than all of it.

Called with a folder: leaves `results.json`, and what each rank wrote to stderr.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from arl_lightning.distributed import failures
from arl_lightning.distributed.watchdog import Watchdog

WORLD_SIZE, SHORT, LONG = 3, 6.0, 100.0
DEADLINE = 90.0
LATE = 15.0
BAD_STEP, NUM_STEPS = 5, 40

# The rank that does it, what it does in step 5, and the seconds that the watchdog waits.
FAULTS: dict[str, tuple[int, Callable[[], object], float]] = {
    "stopped": (1, lambda: os.kill(os.getpid(), signal.SIGSTOP), SHORT),
    "killed": (2, lambda: os.kill(os.getpid(), signal.SIGKILL), LONG),
    "killed, seen late": (2, lambda: os.kill(os.getpid(), signal.SIGKILL), LONG),
    "first killed": (0, lambda: os.kill(os.getpid(), signal.SIGKILL), LONG),
    "sleeping": (1, lambda: time.sleep(1000), SHORT),
    "raising": (1, lambda: 1 / 0, LONG),
    "first raising": (0, lambda: 1 / 0, LONG),
    "saving": (0, lambda: None, SHORT / 2),
    "ending": (0, lambda: None, LONG),
}


def train(rank: int, port: int, fault: str, began: Path) -> None:
    """Exchange something in every step."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "SLURMD_NODENAME": f"host{rank}"}
    dist.init_process_group("gloo", rank=rank, world_size=WORLD_SIZE, timeout=timedelta(seconds=LONG))
    culprit, act, seconds = FAULTS[fault]
    beat_seconds = 0.001 if fault == "ending" else 0.25
    watchdog = Watchdog(rank, WORLD_SIZE, "127.0.0.1", port, seconds, beat_seconds)
    failures.watch(watchdog)
    watchdog.start(patience=10)
    beat(watchdog)
    dist.barrier()
    try:
        for step in range(1, NUM_STEPS):
            watchdog.mark(f"waiting for the data of step {step}")
            if rank == culprit and step == BAD_STEP:
                beat(watchdog)
                began.write_text(str(time.time()))
                act()
            watchdog.mark(f"in step {step}")
            if fault == "saving" and step == BAD_STEP:
                watchdog.mark("saving", patience=3)
                time.sleep(1.5 * seconds)
            dist.all_reduce(torch.ones(3))
        if fault != "ending" or rank == 0:
            watchdog.stop()
    except Exception as error:
        if fault == "killed, seen late" and rank == 1:
            time.sleep(LATE)  # the first rank has told of it and ended, and its store with it
        watchdog.fail(None if failures.is_a_peers(error) else failures.in_words(error))
        failures.leave(failures.report(error))


def beat(watchdog: Watchdog) -> None:
    """Wait until the others have had the time to see what this rank is about."""
    beats = watchdog.record.beat + 4
    while watchdog.record.beat < beats:
        time.sleep(0.05)


def start(rank: int, port: int, fault: str, folder: Path) -> int:
    """Fork one rank; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    with (folder / f"{fault}.{rank}.txt").open("w") as output:
        os.dup2(output.fileno(), 2)
        train(rank, port, fault, folder / f"{fault}.began")
        if fault == "ending":
            sys.modules["long end"] = LongEnd()  # type: ignore[assignment]
            sys.exit(0)
        os._exit(0)


class LongEnd:
    """Keeps the interpreter at its end for a while, when no other thread may run Python any more."""

    def __del__(self) -> None:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            continue


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def main(folder: Path) -> None:
    """Run all, and write down how and when each rank ended."""
    ranks = {}
    for fault in FAULTS:
        port = free_port()
        ranks |= {start(rank, port, fault, folder): (fault, rank) for rank in range(WORLD_SIZE)}
    results: dict[str, dict[str, list[float]]] = {fault: {"codes": [99] * 3, "ended": [0.0] * 3} for fault in FAULTS}
    deadline = time.monotonic() + DEADLINE
    while ranks and time.monotonic() < deadline:
        if all(entry == ("stopped", FAULTS["stopped"][0]) for entry in ranks.values()):
            os.kill(next(iter(ranks)), signal.SIGKILL)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            fault, rank = ranks.pop(pid)
            results[fault]["codes"][rank] = os.waitstatus_to_exitcode(status)
            results[fault]["ended"][rank] = time.time()
        time.sleep(0.02)
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
