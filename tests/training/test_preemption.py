import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from several_ranks import spawn
from torch import nn
from torch.utils.data import DataLoader

from arl_lightning.distributed import signals
from arl_lightning.distributed.signals import Stopped
from arl_lightning.training.preemption import Preemption


class Steps(pl.LightningModule):
    """Steps at every `accumulate`-th batch, as ARL does."""

    def __init__(self, accumulate: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = nn.Linear(2, 1)
        self.accumulate = accumulate

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.manual_backward(self.layer(batch).mean())
        if (batch_idx + 1) % self.accumulate == 0:
            self.optimizers().step()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        raise AssertionError("a run that stops does not validate")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Saved:
    """Stands in for the run's checkpoints."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.during = lambda: None

    def save(self, trainer: pl.Trainer) -> Path:
        self.steps.append(trainer.global_step)
        self.during()
        return Path(f"step-{trainer.global_step}.ckpt")


class At(pl.Callback):
    """Raises signals before batches."""

    def __init__(self, numbers: dict[int, list[int]]) -> None:
        self.numbers = numbers
        self.batches = 0
        self.handlers: list[Any] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int):
        self.batches += 1
        self.handlers.append(signal.getsignal(signal.SIGTERM))
        for number in self.numbers.get(batch_idx, []):
            os.kill(os.getpid(), number)


def fit(numbers: dict[int, list[int]], saved: Saved, accumulate: int = 1, max_steps: int = 10, **arguments: Any) -> At:
    at = At(numbers)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        callbacks=[at, Preemption(saved)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **arguments,
    )
    data = DataLoader(torch.ones(100, 2), batch_size=2)
    try:
        trainer.fit(Steps(accumulate), data, data if max_steps == 10 else None)
    finally:
        at.step = trainer.global_step
    return at


@pytest.fixture(autouse=True)
def _outside_slurm(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGUSR1, 138), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_saved_with_one_line(number, status):
    saved = Saved()
    with pytest.raises(Stopped) as stopped:
        fit({3: [number]}, saved)
    # Batch 3 is step 4, whose end asks; the answer is read one step later.
    assert saved.steps == [5]
    assert str(stopped.value) == (
        f"stopped by {number.name} at step 5, saved to step-5.ckpt; go on with --ckpt_path last"
    )
    assert stopped.value.status == status


def test_a_step_that_is_half_accumulated_is_finished_first():
    saved = Saved()
    with pytest.raises(Stopped, match="at step 3,"):
        fit({3: [signal.SIGUSR1]}, saved, accumulate=3)  # the 4th batch, the 1st of step 2
    assert saved.steps == [3]


def test_more_signals_while_saving_change_nothing():
    saved = Saved()
    saved.during = lambda: [os.kill(os.getpid(), number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(Stopped) as stopped:
        fit({3: [signal.SIGUSR1]}, saved)
    assert (saved.steps, stopped.value.status) == ([5], 138)


@pytest.mark.parametrize("batch", [4, 5])
def test_a_signal_in_the_last_steps_lets_the_run_finish(batch):
    saved = Saved()
    assert fit({batch: [signal.SIGUSR1]}, saved, max_steps=6).step == 6
    assert saved.steps == []


def test_lightning_handles_no_signal_and_those_before_come_back():
    before = [signal.getsignal(number) for number in signals.STOPPING]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    at = fit({}, Saved(), max_steps=2)
    assert set(at.handlers) == {signals._note}
    with pytest.raises(Stopped):
        fit({0: [signal.SIGTERM]}, Saved())
    assert [signal.getsignal(number) for number in signals.STOPPING] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked


def test_a_run_after_one_that_was_stopped_starts_without_its_signal():
    with pytest.raises(Stopped):
        fit({0: [signal.SIGTERM]}, Saved())
    assert fit({}, Saved(), max_steps=4).step == 4


# ---------------------------------------------------------------- several ranks

SCONTROL = """#!/bin/sh
echo "$*" >>{asked}
case "$1" in requeue) sleep 1;; *) echo "JobId=7 JobState=RUNNING Reason=None BatchFlag=1";; esac
"""


def stop_and_go_on(numbers: list[dict[int, list[int]]], folder: Path, rank: int) -> list[dict[str, Any]]:
    os.environ |= {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    results = []
    for given in numbers:
        saved = Saved()
        strategy = DDPStrategy(process_group_backend="gloo")
        try:
            fit(given if rank == 1 else {}, saved, strategy=strategy, devices=2, use_distributed_sampler=False)
            said = "finished"
        except Stopped as stop:
            said = str(stop)
        asked = (folder / "asked").read_text().splitlines()
        results.append({"steps": saved.steps, "said": said, "asked": asked})
    return results


def test_a_signal_to_one_rank_stops_all_at_one_step_after_the_first_has_requeued_the_job(tmp_path):
    program = tmp_path / "scontrol"
    program.write_text(SCONTROL.format(asked=tmp_path / "asked"))
    program.chmod(0o755)
    numbers = [{3: [signal.SIGUSR1]}, {6: [signal.SIGTERM]}]
    first, second = spawn(partial(stop_and_go_on, numbers, tmp_path), 2, tmp_path)
    assert first == second  # also of what had been asked when they left
    assert [run["steps"] for run in first] == [[5], [8]]
    assert first[0]["said"].startswith("stopped by SIGUSR1 at step 5, saved to step-5.ckpt; job 7 is back in the queue")
    assert first[1]["said"].startswith("stopped by SIGTERM at step 8")
    assert [run["asked"] for run in first] == [["-o show job 7", "requeue 7"], ["-o show job 7", "requeue 7"] * 2]
