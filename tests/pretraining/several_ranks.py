"""Processes on this machine that are the ranks of one run."""

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

TIMEOUT = 240.0


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
