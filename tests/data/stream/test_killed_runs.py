"""Runs that get SIGKILL, and what they see when they are started again: keys, seeds and crops of every batch."""

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
from recorded_run import Run, launch
from tiny_shards import write_shards

NUM_SAMPLES, BATCHES_PER_EPOCH, NUM_STEPS = 50, 8, 20  # 50 samples in batches of 6, or 2 x 3
LAYOUTS = {
    "0 workers": {},
    "2 workers": {"data": {"num_workers": 2}},
    "2 ranks": {"world_size": 2, "data": {"batch_size": 3, "num_workers": 1}},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), [13, 14, 12, 11])


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory):
    """The batches of each rank in a run that nobody killed, by the name of its layout."""

    @cache
    def run(name: str) -> list[list[tuple]]:
        return launch(Run(shards, tmp_path_factory.mktemp("straight"), NUM_STEPS, **LAYOUTS[name]))

    return run


def keys(batches) -> list[str]:
    return [key for _, names, _, _ in batches for key in names]


@pytest.mark.parametrize("kill_at", [1, 7, 8, 13, 16])
@pytest.mark.parametrize("name", ["0 workers", "2 workers"])
def test_a_killed_run_sees_what_it_would_have_seen(shards, straight, tmp_path, name, kill_at):
    run = Run(shards, tmp_path, NUM_STEPS, **LAYOUTS[name])
    (first,) = launch(replace(run, kill_at=kill_at))
    (rest,) = launch(run)
    assert first + rest == straight(name)[0]
    assert len(first) == kill_at


@pytest.mark.parametrize("kill_after", [2, 9, 14])
def test_a_run_killed_from_outside_whatever_it_does_sees_what_it_would_have_seen(
    shards, straight, tmp_path, kill_after
):
    run = Run(shards, tmp_path, 3 * NUM_STEPS, **LAYOUTS["2 workers"])
    (first,) = launch(replace(run, kill_after=kill_after))
    (rest,) = launch(run)
    start = rest[0][0]
    assert kill_after - 1 <= start <= len(first) < 3 * NUM_STEPS
    assert (first[:start] + rest)[:NUM_STEPS] == straight("2 workers")[0]
    assert first[start:] == rest[: len(first) - start]


def test_a_killed_run_goes_on_from_its_last_checkpoint(shards, straight, tmp_path):
    run = Run(shards, tmp_path, NUM_STEPS, checkpoint_every=5, **LAYOUTS["2 workers"])
    launch(replace(run, kill_at=3))  # before the first checkpoint
    launch(replace(run, kill_at=9))
    launch(replace(run, kill_at=14))
    (rest,) = launch(run)
    assert rest == straight("2 workers")[0][10:]


@pytest.mark.parametrize(("kill_at", "kill_rank"), [(5, 1), (8, 0), (15, 1)])
def test_two_ranks_see_what_they_would_have_seen(shards, straight, tmp_path, kill_at, kill_rank):
    run = Run(shards, tmp_path, NUM_STEPS, **LAYOUTS["2 ranks"])
    first = launch(replace(run, kill_at=kill_at, kill_rank=kill_rank))
    rest = launch(run)
    for expected, before, after in zip(straight("2 ranks"), first, rest, strict=True):
        assert before[:kill_at] + after == expected


def test_two_ranks_share_an_epoch_without_overlap(straight):
    for epoch in range(2):
        part = slice(epoch * BATCHES_PER_EPOCH, (epoch + 1) * BATCHES_PER_EPOCH)
        seen = [key for batches in straight("2 ranks") for key in keys(batches[part])]
        assert len(set(seen)) == len(seen) == 48


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("2 workers", "2 ranks"),
        ("2 ranks", "0 workers"),
        ("2 ranks", {"world_size": 2, "data": {"batch_size": 5, "num_workers": 0}}),
        ("0 workers", {"data": {"batch_size": 4, "num_workers": 1}}),
    ],
)
@pytest.mark.parametrize("kill_at", [3, 13])
def test_the_rest_of_an_epoch_is_seen_once_by_other_ranks_workers_and_batches(
    shards, straight, tmp_path, before, after, kill_at
):
    layout = LAYOUTS.get(after, after) if isinstance(after, str) else after
    former = Run(shards, tmp_path, NUM_STEPS, kill_at=kill_at, **LAYOUTS[before])
    launch(former)
    epoch_start = kill_at - kill_at % BATCHES_PER_EPOCH
    seen = [key for batches in straight(before) for key in keys(batches[epoch_start:kill_at])]
    size = layout.get("world_size", 1) * layout.get("data", {}).get("batch_size", 6)
    num_rest = (NUM_SAMPLES - len(seen)) // size
    # Killed once more on its way: the new layout's own resumption is exact too.
    run = Run(shards, tmp_path, kill_at + num_rest + 2, **layout)
    first = launch(replace(run, kill_at=kill_at + 2))
    rest = launch(run)
    found = [old[:2] + new for old, new in zip(first, rest, strict=True)]
    assert [batch[0] for batch in found[0]] == list(range(kill_at, kill_at + num_rest + 2))
    seen += [key for batches in found for key in keys(batches[:num_rest])]
    assert set(Counter(seen).values()) == {1}
    assert NUM_SAMPLES - size < len(seen) <= NUM_SAMPLES
    fresh = [key for batches in found for key in keys(batches[num_rest:])]
    assert len(set(fresh)) == len(fresh) == 2 * size
