"""Which cases a rank sees, in which order: drawn anew each epoch in training, each once and in order elsewhere.

N cases, W ranks. What is drawn depends on the seed and the epoch alone.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from arl_lightning.data.seeds import sample_seed


class Draw(NamedTuple):
    """A case to be read, and what its augmentation is seeded by.

    Attributes:
        place: In the listing.
        epoch: Counts from 0.
        repeat: How often it was drawn in this epoch before.
    """

    place: int
    epoch: int = 0
    repeat: int = 0


class TrainSampler:
    """Shuffles cases, every rank its share of one order; all ranks get as many, for which a few may come twice.

    Args:
        places: Cases to train on.
        classes: A class for each of them, to draw all classes equally often; None to draw every case once. An epoch has
            N draws either way. A small class comes round several times, and of a large one each epoch sees a part.
        seed: Of the order.
        rank: This rank.
        world_size: W.
    """

    def __init__(
        self,
        places: Sequence[int],
        classes: Sequence[int] | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.places, self.seed, self.rank, self.world_size = np.asarray(places, np.int64), seed, rank, world_size
        self.classes = None if classes is None else np.asarray(classes)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is drawn next; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.places) // self.world_size)

    def __iter__(self) -> Iterator[Draw]:
        generator = np.random.default_rng(sample_seed(self.seed, self.epoch, "order"))
        order = self._shuffled(generator) if self.classes is None else self._balanced(self.classes, generator)
        order = np.resize(order, len(self) * self.world_size)  # goes round where it is too short
        repeats: dict[int, int] = defaultdict(int)
        for number, place in enumerate(order.tolist()):
            if number % self.world_size == self.rank:
                yield Draw(place, self.epoch, repeats[place])
            repeats[place] += 1

    def _shuffled(self, generator: np.random.Generator) -> np.ndarray:
        return generator.permutation(self.places)

    def _balanced(self, classes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Draw equally many of each class, none again before all others of its class."""
        members = [self.places[classes == each] for each in np.unique(classes)]
        quotas = np.full(len(members), len(self.places) // len(members))
        quotas[generator.permutation(len(members))[: len(self.places) - quotas.sum()]] += 1
        drawn = [_rounds(group, quota, generator) for group, quota in zip(members, quotas.tolist(), strict=True)]
        return generator.permutation(np.concatenate(drawn))


def _rounds(group: np.ndarray, num: int, generator: np.random.Generator) -> np.ndarray:
    rounds = [generator.permutation(group) for _ in range(-(-num // len(group)))]
    return np.concatenate([*rounds, group[:0]])[:num]


class RankBatches:
    """A rank's batches of every W-th case, in order and of nearly equal sizes, as many on every rank.

    A network that talks to the other ranks with every batch would else wait for one that has none left. No case comes
    twice but with batches of one or fewer cases than ranks, where a rank repeats its last, or the part's.

    Args:
        places: Cases of a part.
        batch_size: Most cases in a batch.
        rank: This rank.
        world_size: W.
    """

    def __init__(self, places: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        most = -(-len(places) // world_size)  # cases of the first rank
        self.num_batches = -(-most // batch_size)
        self.places = list(places[rank::world_size])
        self.places += (self.places or list(places))[-1:] * (self.num_batches - len(self.places))

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in np.array_split(self.places, self.num_batches) if self.places else ():
            yield [Draw(place) for place in batch.tolist()]
