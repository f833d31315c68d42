"""Batches of a DataLoader's workers, in shared memory that is used again."""

# B samples; a sample's array is (*), in a batch it is (B, *)

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate, get_worker_info

Batch = TypeVar("Batch", bound=Mapping[str, Any])


class Batches(IterableDataset[dict[str, Any]]):
    """Stacks samples for a DataLoader that leaves batching to its dataset (`batch_size=None`).

    Each sample is copied into its batch while it is in the processor's cache. A worker's batches lie in a few shared
    buffers in turn, and whoever takes one must `own` it: shared memory that is new for every batch costs a page fault
    for each 4 KiB, a tenth of a worker's time, measured on a virtual machine. A worker starts a batch once the training
    process has taken the one `prefetch_factor` before it, and has owned those before that; so one buffer more than
    `prefetch_factor` is never written while it is read.

    Args:
        samples: Mappings with the same fields; their arrays become tensors, other values what `default_collate` makes
            of them. What is left of them at the end makes a smaller batch.
        batch_size: Samples of a batch.
        prefetch_factor: As the DataLoader's.
    """

    def __init__(self, samples: Iterable[Mapping[str, Any]], batch_size: int, prefetch_factor: int) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.prefetch_factor = prefetch_factor

    def __iter__(self) -> Iterator[dict[str, Any]]:
        shared = get_worker_info() is not None
        buffers: list[dict[str, Tensor]] = [{} for _ in range(self.prefetch_factor + 1)]
        samples = iter(self.samples)
        for turn in itertools.count():
            buffer = buffers[turn % len(buffers)] if shared else {}
            batch = stack(itertools.islice(samples, self.batch_size), self.batch_size, buffer, shared)
            if not batch:
                return
            yield batch


def stack(
    samples: Iterable[Mapping[str, Any]], batch_size: int, buffer: dict[str, Tensor], shared: bool = False
) -> dict[str, Any]:
    """Return the batch of at most `batch_size` samples, an empty one of none.

    Args:
        samples: As for `Batches`.
        batch_size: Rows of a tensor that is made here.
        buffer: Tensors (B, *) to be filled, by name; those that are missing are added.
        shared: Whether to make them in shared memory.
    """
    others = []
    for row, sample in enumerate(samples):
        arrays = {name: value for name, value in sample.items() if isinstance(value, np.ndarray)}
        for name, value in arrays.items():
            if name not in buffer:
                made = torch.from_numpy(np.empty((batch_size, *value.shape), value.dtype))
                buffer[name] = made.share_memory_() if shared else made
            buffer[name].numpy()[row] = value
        others.append({name: value for name, value in sample.items() if name not in arrays})
    return default_collate(others) | {name: tensor[: len(others)] for name, tensor in buffer.items()} if others else {}


def own(batch: Batch) -> Batch:
    """Copy what lies in a worker's shared memory. Pinned tensors do not: the DataLoader has copied them."""
    copied = {
        name: value.clone() if isinstance(value, Tensor) and value.is_shared() else value
        for name, value in batch.items()
    }
    return cast(Batch, copied)
