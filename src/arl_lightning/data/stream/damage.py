"""Counts what a stream could not use: worker processes write, the training process reads."""

# W workers, S shards

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arl_lightning.data.stream.storage import Shard

# The share of undecodable images says little before this many have been read.
MIN_JUDGED = 100
SHOWN = 5  # shards that a message names


class Tally:
    """One worker's counts, views of shared memory.

    Attributes:
        num_read: Images read from shards, (1,).
        undecodable: Images that could not be decoded, by shard, (S,).
        displaced: Places that went to another shard, by lost shard, (S,).
        lost: 1 for a shard that could not be read, (S,).
    """

    def __init__(self, num_read: Tensor, by_shard: Tensor) -> None:
        self.num_read = num_read.numpy()
        self.undecodable, self.displaced, self.lost = by_shard.numpy()


class Damage:
    """The counts of one rank's workers; each writes to a row of its own, so nothing needs a lock.

    Args:
        num_workers: Rows.
        num_shards: Shards of the corpus.
    """

    def __init__(self, num_workers: int, num_shards: int) -> None:
        self._num_read = torch.zeros(num_workers, 1, dtype=torch.int64).share_memory_()  # (W, 1)
        self._by_shard = torch.zeros(num_workers, 3, num_shards, dtype=torch.int64).share_memory_()  # (W, 3, S)

    def of_worker(self, worker: int) -> Tally:
        """Return a worker's counts."""
        return Tally(self._num_read[worker], self._by_shard[worker])

    def is_known(self, shard: int) -> bool:
        """Return whether any worker of this rank has lost a shard already."""
        return bool(self._by_shard[:, 2, shard].any())

    def total(self) -> Tensor:
        """Return all counts over the workers, int64 (1 + 3 S,): to be summed over ranks, then `DamageReport`."""
        return torch.cat([self._num_read.sum(0), self._by_shard.sum(0).flatten()])


@dataclass(frozen=True)
class DamageReport:
    """What all ranks together could not use.

    Args:
        shards: The corpus.
        total: Sum of `Damage.total` over ranks.
    """

    shards: Sequence[Shard]
    total: Tensor

    @property
    def num_read(self) -> int:
        """Images read from shards."""
        return int(self.total[0])

    @property
    def num_undecodable(self) -> int:
        """Images that could not be decoded."""
        return int(self._by_shard[0].sum())

    @property
    def num_replaced(self) -> int:
        """Places in batches that went to another image."""
        return int(self._by_shard[:2].sum())

    @property
    def lost(self) -> list[Shard]:
        """Shards that could not be read."""
        return [self.shards[index] for index in np.flatnonzero(self._by_shard[2]).tolist()]

    @property
    def share(self) -> float:
        """Share of the corpus that cannot be used: lost shards, and undecodable images as far as it was read."""
        lost = sum(shard.num_samples for shard in self.lost) / sum(shard.num_samples for shard in self.shards)
        return lost + (self.num_undecodable / self.num_read if self.num_read >= MIN_JUDGED else 0.0)

    @property
    def _by_shard(self) -> np.ndarray:
        """(3, S)."""
        return self.total[1:].reshape(3, -1).numpy()

    def __str__(self) -> str:
        """Name the numbers and the shards that suffer most."""
        undecodable, _, lost = self._by_shard
        worst = [index for index in np.lexsort((-undecodable, lost == 0)).tolist() if undecodable[index] or lost[index]]
        named = ", ".join(self.shards[index].url for index in worst[:SHOWN])
        more = f" and {len(worst) - SHOWN} more" if len(worst) > SHOWN else ""
        return (
            f"{self.share:.2%} of the corpus cannot be used: {self.num_undecodable} of {self.num_read} images read are"
            f" undecodable, {len(self.lost)} of {len(self.shards)} shards are lost ({named}{more})"
        )
