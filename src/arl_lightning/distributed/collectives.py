"""Reductions over all ranks; in a single process each returns its input, detached."""

import torch.distributed as dist
from torch import Tensor


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
