"""Two gloo processes on two cores against one process on one core: how much a run gains from the second.

    python benchmarks/scaling.py                   # phantoms, packed for the occasion
    python benchmarks/scaling.py --shards FOLDER   # packed shards as they are

Weak scaling: every process trains with the recipe's batch size, so the ideal is the same time for a step, and the
efficiency is the time of one process over the time of two. Each process is a run of the recipe as it is, pinned to a
core together with its loader worker (taskset), with one thread, and with all terms of the loss from the first step on.
All three start once and then take turns, one, two, one, two, while the others sleep. The efficiency is the median over
rounds of each round's ratio. Nothing else should run on these cores.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import IO, Any, NamedTuple, cast

import torch
import yaml
from jsonargparse import auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer

from arl_lightning.errors import UserError
from arl_lightning.pretraining.recipe import build_cli
from arl_lightning.training.communication import Communication
from arl_lightning.training.host import Process, git_state
from arl_lightning.training.progress import Throughput

ROOT = Path(__file__).parents[1]
LEAST_EFFICIENCY = 0.85
NUM_PHANTOMS = 640
REPORT = "round: "  # begins the lines that a process sends to the benchmark
AS_PROCESS = "as-process"


class Round(NamedTuple):
    """What a process measured in its turn; the shares are running means."""

    step_seconds: float
    communication_share: float
    data_wait_share: float


@dataclass(frozen=True)
class Report:
    """One measurement of either contender in each round; of two processes the slower one's."""

    recipe: str
    data: str
    batch_size: int
    steps_per_round: int
    one: list[Round]
    two: list[Round]

    @property
    def efficiency(self) -> float:
        """Time of one process over the time of two."""
        return median(one.step_seconds / two.step_seconds for one, two in zip(self.one, self.two, strict=True))

    def save(self, folder: Path) -> None:
        """Write all numbers, the machine and the date to a JSON file that is named after the date."""
        here = Process.here(torch.device("cpu"))
        now = datetime.now(UTC)
        content = {
            "date": f"{now:%Y-%m-%d %H:%M} UTC",
            "machine": {"processor": here.device, "cores": len(here.cores), "memory": here.memory},
            "software": dict(here.software),
            "code": git_state(),
            "efficiency": self.efficiency,
            "least_efficiency": LEAST_EFFICIENCY,
            **asdict(self),
            **{name: [turn._asdict() for turn in getattr(self, name)] for name in ("one", "two")},
        }
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / "scaling.tmp"
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / f"scaling-{now:%Y-%m-%d}.json")

    def __str__(self) -> str:
        lines = [
            f"{self.recipe}, {self.data}, {self.batch_size} images a step and process;"
            f" medians of {len(self.one)} rounds of {self.steps_per_round} steps",
            f"{'':14}{'seconds a step':>16}{'communication':>16}{'data wait':>16}",
        ]
        for name, rounds in (("one process", self.one), ("two processes", self.two)):
            seconds, exchanging, waiting = (median(values) for values in zip(*rounds, strict=True))
            lines.append(f"{name:14}{seconds:16.3f}{exchanging:16.1%}{waiting:16.1%}")
        return "\n".join([*lines, f"one / two     {self.efficiency:16.3f} (at least {LEAST_EFFICIENCY})"])


def benchmark(
    recipe: Path = ROOT / "recipes/pretrain/avit_tiny_cpu.yaml",
    shards: Path | None = None,
    rounds: int = 7,
    steps: int = 6,
    settle: int = 2,
    cores: tuple[int, int] = (0, 1),
    out: Path | None = ROOT / "benchmarks/results",
) -> Report:
    """Measure one process and two in turn.

    Args:
        recipe: Of `arl pretrain`.
        shards: Folder of packed shards; phantoms by default.
        rounds: Times that either is measured.
        steps: Steps that are measured in a round.
        settle: Steps before them, which use up what loaders have prepared in the meantime.
        cores: Of the two processes; the first is the single process' too.
        out: Folder for a JSON file; null for none.
    """
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plan = [str(steps), str(settle)]
        arguments = recipe_arguments(recipe, shards or pack_phantoms(work / "shards"))
        arguments += ["--trainer.max_steps", str((rounds + 1) * (steps + settle) + 2)]  # the last one would save
        alone = [Contender(stack, work / "one", [*plan, *arguments], cores[0])]
        port = str(free_port())
        arguments += ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
        pair = [
            Contender(stack, work / f"two-{rank}", [*plan, *arguments], core, rank=rank, port=port)
            for rank, core in enumerate(cores)
        ]
        for contender in [*alone, *pair]:
            contender.answer()  # warm
        turns = [(in_turn(alone), in_turn(pair)) for _ in range(rounds)]
    one, two = (list(column) for column in zip(*turns, strict=True))
    data = "packed shards" if shards else f"{NUM_PHANTOMS} phantoms"
    batch_size = yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"]["batch_size"]
    report = Report(recipe.stem, data, batch_size, steps, one, two)
    if out is not None:
        report.save(out)
    return report


def recipe_arguments(recipe: Path, shards: Path) -> list[str]:
    """Return the arguments of `arl pretrain` that all processes share."""
    never = str(10**9)
    changes = {
        "data.shards": str(shards),
        "model.adversarial.start_share": "0.0",
        "trainer.accelerator": "cpu",
        "trainer.devices": "1",
        "run.checkpoint_every_n_steps": never,
        "run.pictures_every_n_steps": never,
        "distributed.timeout_seconds": "3600",  # they sleep through the other contender's turn
    }
    return ["--config", str(recipe), *(word for key, value in changes.items() for word in (f"--{key}", value))]


def pack_phantoms(folder: Path) -> Path:
    """Pack synthetic ultrasound."""
    arl = Path(sys.executable).with_name("arl")
    size = ["--num_samples", str(NUM_PHANTOMS), "--samples_per_shard", "64"]
    command = [str(arl), "shards", "pack", "--source", "phantom", *size, "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def free_port() -> int:
    """Return a port where nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


# ---------------------------------------------------------------- from outside of a process


class Contender:
    """A process that trains when it is told to.

    Args:
        stack: Ends it.
        folder: For its run.
        words: Steps, steps to settle, and its arguments of `arl pretrain`.
        core: That it and its workers run on.
        rank: Of two; None for the single one.
        port: Where two meet.
    """

    def __init__(
        self, stack: ExitStack, folder: Path, words: list[str], core: int, rank: int | None = None, port: str = ""
    ) -> None:
        folder.mkdir()
        self.errors = folder / "errors.txt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if rank is not None:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
        command = ["taskset", "--cpu-list", str(core), sys.executable, __file__, AS_PROCESS, *words]
        command += ["--run.folder", str(folder / "run")]
        process = stack.enter_context(started(command, environment, self.errors))
        self.orders, self.reports = cast(IO[str], process.stdin), cast(IO[str], process.stdout)

    def start(self) -> None:
        """Let it take its turn."""
        print("go", file=self.orders, flush=True)

    def answer(self) -> Round:
        """Wait until its turn is over.

        Raises:
            UserError: If it has ended.
        """
        for line in self.reports:
            if line.startswith(REPORT):
                return Round(*json.loads(line.removeprefix(REPORT)))
        raise UserError(f"a process ended: {self.errors.read_text(encoding='utf-8')[-2000:]}")


@contextmanager
def started(command: list[str], environment: dict[str, str], errors: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command, and kill it and its workers in the end."""
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def in_turn(contenders: list[Contender]) -> Round:
    """Let processes that train together take their turn, and return the slower one's."""
    for contender in contenders:
        contender.start()
    return max(contender.answer() for contender in contenders)


# ---------------------------------------------------------------- within a process


class Turns(Callback):
    """Holds a run back until it is told to go on, and reports on every turn; it must be the last callback."""

    def __init__(self, steps: int, settle: int) -> None:
        self.steps = steps
        self.settle = settle
        self._done = 0  # in this turn
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Count, and wait where a turn is over; the first turn warms up."""
        self._done += 1
        if self._done == self.settle:
            self._started = time.perf_counter()
        if self._done == self.settle + self.steps:
            self._report(trainer)
            if not sys.stdin.readline():
                trainer.should_stop = True
            self._begin(trainer, pl_module)

    def _report(self, trainer: Trainer) -> None:
        seconds = (time.perf_counter() - self._started) / self.steps
        shares = [
            float(trainer.callback_metrics.get(f"train/{name}_share", 0.0)) for name in ("communication", "data_wait")
        ]
        print(REPORT + json.dumps([seconds, *shares]), flush=True)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._done, self._started = 0, time.perf_counter()
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Communication | Throughput):
                callback.on_validation_end(trainer, pl_module)  # the wait is as little theirs as validation is


def train(steps: int, settle: int, arguments: list[str]) -> None:
    """Train as the arguments of `arl pretrain` say, turn by turn."""
    torch.set_num_threads(1)
    cli = build_cli(arguments)
    cli.trainer.callbacks.append(Turns(steps, settle))
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)


if __name__ == "__main__":
    if sys.argv[1:2] == [AS_PROCESS]:
        train(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    else:
        print(auto_cli(benchmark))
