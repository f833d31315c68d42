"""Small runs on several ranks of this machine: which ranks, how weights lie on them, what comes out."""

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from lightning.pytorch.plugins import DoublePrecision
from torch import Tensor, nn

from arl_lightning.distributed.options import Distributed
from arl_lightning.distributed.strategies import build_strategy

TIMEOUT = 240.0


@dataclass(frozen=True)
class Layout:
    """A strategy of the recipe's and a number of ranks; hsdp takes half of them for a node."""

    strategy: str
    world_size: int

    def __str__(self) -> str:
        return f"{self.strategy} x {self.world_size}"

    def trainer_arguments(self) -> dict[str, Any]:
        """Return the Trainer's arguments, in float64."""
        if self.world_size == 1:
            return {}
        strategy = build_strategy(self.strategy, Distributed(timeout_seconds=60), num_nodes=2)
        arguments = {"strategy": strategy, "devices": self.world_size, "use_distributed_sampler": False}
        if self.strategy != "ddp":  # Lightning offers float64 with sharded weights as a plugin only
            arguments |= {"precision": None, "plugins": [DoublePrecision()]}
        return arguments


SINGLE, DDP_2, DDP_4 = Layout("auto", 1), Layout("ddp", 2), Layout("ddp", 4)
FSDP2, HSDP = Layout("fsdp2", 2), Layout("hsdp", 4)


def whole(module: nn.Module) -> dict[str, Tensor]:
    """Return weights and buffers, put together where they are sharded; on all ranks at once."""
    state = module.state_dict()
    return {
        name: (each.full_tensor() if hasattr(each, "full_tensor") else each).clone() for name, each in state.items()
    }


def spawn(function: Callable[[int], Any], world_size: int, folder: Path) -> list[Any]:
    """Call a module's function with each rank, in a process of its own; returns what each returned."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    context = torch.multiprocessing.start_processes(
        _run_rank, (function, port, str(folder)), world_size, join=False, start_method="spawn"
    )
    deadline = time.monotonic() + TIMEOUT
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, f"{world_size} ranks did not end in {TIMEOUT:.0f} s"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def _run_rank(rank: int, function: Callable[[int], Any], port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.save(function(rank), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
