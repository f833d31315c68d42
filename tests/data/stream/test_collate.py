import copy
import itertools
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from arl_lightning.data.stream.collate import Batches, own, stack

SIZE = 4  # samples of a batch


def sample(number: int) -> dict:
    image = np.full((2, 1, 8, 8), number % 256, np.uint8)
    return {"views": image, "none": image[:0], "number": number, "key": str(number)}


class Numbers(IterableDataset):
    """Sample i of worker w is the number i x workers + w."""

    def __iter__(self):
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        yield from map(sample, itertools.count(first, step))


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        for name, value in first.items()
    )


def make_loader(num_workers: int, prefetch_factor: int) -> DataLoader:
    batches = Batches(Numbers(), SIZE, prefetch_factor)
    prefetch = prefetch_factor if num_workers else None
    return DataLoader(batches, batch_size=None, num_workers=num_workers, prefetch_factor=prefetch)


@pytest.mark.parametrize(("num_workers", "prefetch_factor"), [(0, 2), (1, 1), (1, 2), (2, 3)])
def test_batches_that_are_kept_stay_what_default_collate_makes_of_their_samples(num_workers, prefetch_factor):
    kept, then = [], []
    for batch in itertools.islice(make_loader(num_workers, prefetch_factor), 12):
        time.sleep(0.02)  # the workers get as far ahead as they may
        kept.append(own(batch))
        then.append(copy.deepcopy(kept[-1]))
    for index, (batch, before) in enumerate(zip(kept, then, strict=True)):
        lap, worker = divmod(index, max(num_workers, 1))
        numbers = [(lap * SIZE + i) * max(num_workers, 1) + worker for i in range(SIZE)]
        assert equal(batch, default_collate([sample(number) for number in numbers]))
        assert equal(batch, before)


def test_a_worker_fills_one_buffer_more_than_it_may_be_ahead():
    batches = list(itertools.islice(make_loader(1, 2), 9))  # against the rule, nothing is copied
    first_values = [batch["views"][0, 0, 0, 0, 0].item() for batch in batches]
    # The worker has gone on to batch 10 at most: buffers 0, 1, 2 hold batches 8 to 10, whoever kept the earlier ones.
    assert len(set(first_values)) == 3
    assert min(first_values) >= 8 * SIZE - 3 * SIZE


def test_what_is_not_shared_is_not_copied():
    batch = {"views": torch.zeros(2), "key": ["a"]}
    assert own(batch)["views"] is batch["views"]


def test_batches_made_here_have_memory_of_their_own():
    first, second = itertools.islice(make_loader(0, 2), 2)
    assert not first["views"].is_shared()
    assert first["views"].data_ptr() != second["views"].data_ptr()


def test_the_last_batch_is_smaller():
    batches = list(Batches([sample(number) for number in range(6)], SIZE, 2))
    assert [batch["number"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    assert batches[1]["views"].shape == (2, 2, 1, 8, 8)
    assert list(Batches([], SIZE, 2)) == []


def test_a_given_buffer_is_filled():
    buffer = {"views": torch.full((2, 2, 1, 8, 8), 9, dtype=torch.uint8)}
    batch = stack([sample(1), sample(2)], 2, buffer)
    assert batch["views"].data_ptr() == buffer["views"].data_ptr()
    assert buffer["views"][:, 0, 0, 0, 0].tolist() == [1, 2]
