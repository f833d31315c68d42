"""Batches of a DataLoader's workers, in shared memory that is used again."""

# B samples; a sample's image array is (*), in a batch it is (B, *)

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

Batch = TypeVar("Batch", bound=Mapping[str, Any])


class SharedCollate:
    """Stacks samples; in a worker, their arrays into a few shared buffers in turn. Whoever takes a batch must `own` it.

    Shared memory that is new for every batch costs a page fault for each 4 KiB: a tenth of a worker's time, measured on
    a virtual machine. A worker starts a batch once the training process has taken the one `prefetch_factor` before it,
    and has owned those before that; so one buffer more than `prefetch_factor` is never written while it is read.

    Args:
        prefetch_factor: As the DataLoader's.
    """

    def __init__(self, prefetch_factor: int) -> None:
        self._buffers: list[dict[str, Tensor]] = [{} for _ in range(prefetch_factor + 1)]
        self._turn = 0

    def __call__(self, samples: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch of samples with the same fields, as `default_collate` would."""
        if get_worker_info() is None:
            return default_collate(samples)
        buffers = self._buffers[self._turn % len(self._buffers)]
        self._turn += 1
        arrays = {name for name, value in samples[0].items() if isinstance(value, np.ndarray)}
        batch = default_collate(
            [{name: value for name, value in each.items() if name not in arrays} for each in samples]
        )
        return batch | {name: _stack(buffers, name, [each[name] for each in samples]) for name in arrays}


def _stack(buffers: dict[str, Tensor], name: str, arrays: list[np.ndarray]) -> Tensor:
    """Stack into the buffer of this name, (B, *), made if it is missing or of another shape."""
    shape = (len(arrays), *arrays[0].shape)
    if name not in buffers or buffers[name].shape != shape:
        buffers[name] = torch.from_numpy(np.empty(shape, arrays[0].dtype)).share_memory_()
    np.stack(arrays, out=buffers[name].numpy())
    return buffers[name]


def own(batch: Batch) -> Batch:
    """Copy what lies in a worker's shared memory. Pinned tensors do not: the DataLoader has copied them."""
    copied = {
        name: value.clone() if isinstance(value, Tensor) and value.is_shared() else value
        for name, value in batch.items()
    }
    return cast(Batch, copied)
