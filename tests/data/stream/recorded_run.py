"""A run in processes of its own that writes down every batch it trains on, and can be killed at one.

The processes come from a server that has imported everything: each is as clean as a new interpreter, without its
seconds of start-up.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import signal
import socket
import time
import warnings
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy

from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.errors import UserError
from arl_lightning.pretraining.callbacks.data import DataGuard
from arl_lightning.training.checkpoint_io import AtomicCheckpointIO
from arl_lightning.training.checkpoints import RunCheckpoints, resume_from

SMALL = {"batch_size": 6, "num_workers": 0, "global_size": 16, "num_local_views": 1, "local_size": 8}
TIMEOUT = 120.0
# Installed ones: the server does not look where the tests lie.
PRELOADED = ["arl_lightning.pretraining.callbacks", "arl_lightning.pretraining.checkpoint"]


@dataclass(frozen=True)
class Run:
    """What to train, and when to die.

    Attributes:
        shards: The corpus.
        folder: Holds last.ckpt and a file of batches for each rank.
        max_steps: Steps in all, those before a resumption included.
        data: Arguments of the DataModule.
        world_size: Ranks.
        checkpoint_every: Steps between checkpoints.
        kill_at: The batch, counted from the run's first, in which a process gets SIGKILL.
        kill_rank: Whose process.
        kill_after: The launcher sends SIGKILL once the first rank has written down so many batches, whatever is going
            on.
        guard_every: Steps between two looks of a DataGuard; 0 for none.
    """

    shards: Path
    folder: Path
    max_steps: int
    data: dict[str, Any] = field(default_factory=dict)
    world_size: int = 1
    checkpoint_every: int = 1
    kill_at: int | None = None
    kill_rank: int = 0
    kill_after: int | None = None
    guard_every: int = 0


class Recording(pl.LightningModule):
    """Trains one weight and appends each batch's keys, seeds and a checksum of its crops to a file."""

    def __init__(self, run: Run, rank: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.run = run
        self.rank = rank

    def training_step(self, batch, batch_idx):
        number = self.trainer.datamodule.num_batches
        if self.run.kill_at == number and self.run.kill_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        pixels = batch["global_views"].numpy().tobytes() + batch["local_views"].numpy().tobytes()
        line = [number, batch["key"], batch["seed"].tolist(), hashlib.sha256(pixels).hexdigest()]
        with batches_file(self.run, self.rank).open("a") as file:
            file.write(json.dumps(line) + "\n")
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.weight - 1) ** 2)
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches_file(run: Run, rank: int) -> Path:
    return run.folder / f"rank-{rank}.jsonl"


def train(run: Run, rank: int, port: int) -> None:
    """Train as one rank, from the folder's checkpoint if there is one."""
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of loader workers: as in a process started by hand
    arguments: dict[str, Any] = {}
    if run.world_size > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=60))
        arguments = {"strategy": strategy, "devices": run.world_size, "use_distributed_sampler": False}
    checkpoints = RunCheckpoints(run.folder, run.checkpoint_every, keep=1)
    last = resume_from(run.folder)
    guards = [DataGuard(checkpoints, run.guard_every)] if run.guard_every else []
    trainer = pl.Trainer(
        default_root_dir=run.folder,
        max_steps=run.max_steps,
        callbacks=[*guards, checkpoints],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **arguments,
    )
    data = PretrainingDataModule(str(run.shards), **{**SMALL, **run.data})
    try:
        trainer.fit(Recording(run, rank), datamodule=data, ckpt_path=last, weights_only=True)
    except UserError as error:
        (run.folder / f"error-{rank}").write_text(str(error))
    if run.world_size > 1:
        torch.distributed.destroy_process_group()


def launch(run: Run) -> list[list[tuple]]:
    """Run to the end or to the kill, in which all ranks die, as a cluster's launcher sees to; return new batches."""
    run.folder.mkdir(parents=True, exist_ok=True)
    for rank in range(run.world_size):
        batches_file(run, rank).unlink(missing_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    port = _free_port()
    processes = [context.Process(target=train, args=(run, rank, port)) for rank in range(run.world_size)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + TIMEOUT
    while any(process.exitcode is None for process in processes):
        assert time.monotonic() < deadline, f"the run did not end in {TIMEOUT:.0f} s"
        if any(process.exitcode for process in processes) or _is_time_to_kill(run):
            for process in processes:
                process.kill()
        time.sleep(0.005)
    codes = [process.exitcode for process in processes]
    to_be_killed = run.kill_at is not None or run.kill_after is not None
    assert codes[run.kill_rank] == (-signal.SIGKILL if to_be_killed else 0), codes
    return [_read(batches_file(run, rank)) for rank in range(run.world_size)]


def _is_time_to_kill(run: Run) -> bool:
    return run.kill_after is not None and len(_read(batches_file(run, 0))) >= run.kill_after


def _read(path: Path) -> list[tuple]:
    return (
        [tuple(json.loads(line)) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if path.exists()
        else []
    )


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
