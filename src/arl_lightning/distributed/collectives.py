"""Exchanges between all ranks; in a single process each returns its input, tensors detached."""

import os
from typing import Any

import torch.distributed as dist
from torch import Tensor

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # what torchrun, Lightning and Slurm tell each process


def world_size() -> int:
    """Return the number of ranks, 1 where no process group runs."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum over ranks of a tensor of equal shape on each; no gradient passes."""
    return _all_reduce(tensor, dist.ReduceOp.SUM)


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Return the mean over ranks of a tensor of equal shape on each; no gradient passes."""
    return all_reduce_sum(tensor) / world_size()


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Return the elementwise maximum over ranks of a tensor of equal shape on each; no gradient passes."""
    return _all_reduce(tensor, dist.ReduceOp.MAX)


def _all_reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if world_size() == 1:
        return tensor.detach()
    reduced = tensor.detach().clone()
    dist.all_reduce(reduced, op=operation)
    return reduced


def gather_rows(rows: Any) -> list[Any]:
    """Return what every rank holds, by rank; any object that can be pickled."""
    if world_size() == 1:
        return [rows]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, rows)
    return gathered


def is_first_rank() -> bool:
    """Return whether this process writes and speaks for all, also before the process group runs."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return int(next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), "0")) == 0
