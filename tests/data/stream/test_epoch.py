"""The plan of an epoch: counting alone, no file."""

import hashlib
import itertools
import json
import random
import time
from collections import Counter

import pytest

from arl_lightning.data.stream.epoch import (
    CHUNK,
    EpochPlan,
    Layout,
    Piece,
    Segment,
    batches_per_epoch,
    chunk_order,
    merged,
)
from arl_lightning.data.stream.interleave import consumed, interleave, open_after
from arl_lightning.data.stream.storage import Shard
from arl_lightning.errors import UserError


def shards_of(sizes) -> list[Shard]:
    digests = sorted(hashlib.sha256(str(index).encode()).hexdigest() for index in range(len(sizes)))
    return [Shard(f"{digest}.tar", size, 0, digest) for digest, size in zip(digests, sizes, strict=True)]


def samples(pieces) -> list[tuple[int, int]]:
    return [(piece.shard, position) for piece in pieces for position in range(piece.start, piece.stop)]


def read(plan: EpochPlan, rank: int, start: int, stop: int) -> list[tuple[int, int, int]]:
    """(epoch, shard, position) of every sample of a rank's trainer batches, walked one by one as workers would."""
    size, found = plan.layout.batch_size, []
    for batch in range(start, stop):
        epoch, behind = plan.locate(batch)
        own, worker = divmod(behind, plan.layout.slots_per_rank)
        pieces = iter([iter(samples([piece])) for piece in plan.slot(epoch, rank, worker)])
        order = list(interleave(itertools.islice(pieces, plan.layout.open_shards), pieces))
        found += [(epoch, *sample) for sample in order[own * size : (own + 1) * size]]
    return found


def read_all(plan: EpochPlan, start: int, stop: int) -> list[tuple[int, int, int]]:
    return [sample for rank in range(plan.layout.world_size) for sample in read(plan, rank, start, stop)]


def test_interleaving_by_hand():
    items = [iter("ab"), iter("cde"), iter("f"), iter("gh")]
    assert "".join(interleave(items[:2], iter(items[2:]))) == "acbdfegh"


def test_where_interleaving_stands_is_what_walking_there_gives():
    draw = random.Random(0)  # noqa: S311
    for _ in range(200):
        sizes = [draw.randrange(1, 9) for _ in range(draw.randrange(1, 9))]
        open_shards, num = draw.randrange(1, 5), draw.randrange(0, sum(sizes) + 1)
        walked = interleaved(sizes, [(i, 0) for i in range(min(open_shards, len(sizes)))], open_shards)
        opened, following = open_after(sizes, open_shards, num)
        assert interleaved(sizes, opened, following) == walked[num:]
        taken = Counter(index for index, _ in walked[:num])
        assert consumed(sizes, open_shards, num) == [taken[index] for index in range(len(sizes))]


def interleaved(sizes, opened, following) -> list[tuple[int, int]]:
    def items(index, used=0):
        return iter([(index, item) for item in range(used, sizes[index])])

    rest = iter([items(index) for index in range(following, len(sizes))])
    return list(interleave([items(index, used) for index, used in opened], rest))


def test_touching_pieces_are_joined():
    pieces = [Piece(1, 5, 9), Piece(0, 3, 3), Piece(1, 0, 2), Piece(1, 2, 5), Piece(2, 9, 10)]
    assert merged(pieces) == [Piece(1, 0, 9), Piece(2, 9, 10)]


def test_slots_by_hand():
    # 24 samples, 2 ranks x 2 workers x batches of 3: 4 batches a rank, 2 a worker, so 6 samples a slot.
    plan = EpochPlan(shards_of([10, 8, 4, 2]), 0, Layout(3, world_size=2, num_workers=2))
    run = [piece for rank, worker in itertools.product(range(2), repeat=2) for piece in plan.slot(0, rank, worker)]
    assert plan.num_batches(0) == 4
    assert [piece.shard for piece in merged(run)] == [0, 1, 2, 3]
    order = plan.shard_order(0)
    assert samples(run) == [(shard, at) for shard in order for at in range(plan.shards[shard].num_samples)]
    assert [sum(p.size for p in plan.slot(0, *slot)) for slot in itertools.product(range(2), repeat=2)] == [6] * 4


@pytest.mark.parametrize(
    ("world_size", "num_workers", "batch_size"), [(1, 0, 7), (1, 3, 4), (2, 2, 5), (3, 4, 3), (4, 1, 9)]
)
def test_an_epoch_gives_every_rank_the_same_number_of_batches_and_no_sample_twice(world_size, num_workers, batch_size):
    plan = EpochPlan(
        shards_of([17, 30, 9, 22, 41, 3, 28, 11, 19, 25, 14, 6]), 3, Layout(batch_size, world_size, num_workers)
    )
    total = batches_per_epoch(225, 12, world_size, num_workers, batch_size)
    assert total == 225 // (world_size * batch_size) == plan.num_batches(1)
    for epoch in range(2):
        found = Counter(read_all(plan, epoch * total, (epoch + 1) * total))
        assert set(found.values()) == {1}
        assert {each for each, _, _ in found} == {epoch}
        assert 225 - len(found) == 225 % (world_size * batch_size) < world_size * batch_size


def test_what_is_dropped_changes_from_epoch_to_epoch():
    plan = EpochPlan(shards_of([10] * 10), 0, Layout(16))
    dropped = [
        {(shard, at) for shard in range(10) for at in range(10)}
        - {sample[1:] for sample in read_all(plan, 6 * e, 6 * e + 6)}
        for e in range(4)
    ]
    assert [len(each) for each in dropped] == [4] * 4
    assert len(set(map(frozenset, dropped))) > 1


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((12, 3, 2, 4, 1), r"3 shards for 2 ranks x 4 workers: .*--samples_per_shard.*--data.num_workers"),
        ((16, 4, 2, 2, 9), r"16 samples for 2 ranks x batches of 9: .*--data.batch_size"),
    ],
)
def test_too_little_is_refused_in_numbers(numbers, message):
    with pytest.raises(UserError, match=message):
        batches_per_epoch(*numbers)


def test_chunks_are_permuted_within_themselves_and_anew_in_every_epoch():
    (shard,) = shards_of([CHUNK + 10])
    first, last = chunk_order(0, 0, shard, 0), chunk_order(0, 0, shard, 1)
    assert sorted(first) == list(range(CHUNK)) != first
    assert sorted(last) == list(range(CHUNK, CHUNK + 10)) != last
    assert chunk_order(0, 1, shard, 0) != first != chunk_order(1, 0, shard, 0)


# ---------------------------------------------------------------- resuming with another layout

SIZES = [17, 30, 9, 22, 41, 3, 28, 11, 19, 25, 14, 6]
LAYOUTS = [Layout(5, 1, 2), Layout(5, 2, 1), Layout(3, 2, 2), Layout(8, 1, 0), Layout(2, 4, 3, 2), Layout(5, 1, 2, 1)]


@pytest.mark.parametrize("start", [1, 7, 22, 44, 45, 46, 50])
@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_the_rest_of_an_epoch_is_seen_once_by_another_layout(start, layout):
    shards = shards_of(SIZES)
    former = EpochPlan(shards, 0, LAYOUTS[0])
    epoch, behind = former.locate(start)
    seen = read_all(former, start - behind, start)
    plan = EpochPlan(shards, 0, layout, former.remaining(start))
    rest = plan.num_batches(epoch)
    found = read_all(plan, start, start + rest)
    assert {sample[0] for sample in found} <= {epoch}
    assert set(Counter(seen + found).values()) == {1}
    assert 0 <= sum(SIZES) - len(seen) - len(found) < layout.world_size * layout.batch_size
    assert plan.locate(start + rest) == (epoch + 1, 0)
    assert plan.num_batches(epoch + 1) == batches_per_epoch(
        225, 12, layout.world_size, layout.num_workers, layout.batch_size
    )


def test_a_chain_of_layouts_sees_an_epoch_once():
    shards, segment, batch, seen = shards_of(SIZES), Segment(), 0, []
    for layout in LAYOUTS:
        plan = EpochPlan(shards, 0, layout, segment)
        seen += read_all(plan, batch, batch + 4)
        batch += 4
        segment = Segment.from_state_dict(json.loads(json.dumps(plan.remaining(batch).state_dict())))
    plan = EpochPlan(shards, 0, Layout(1), segment)
    seen += read_all(plan, batch, batch + plan.num_batches(0))
    assert {epoch for epoch, _, _ in seen} == {0}
    assert sorted(seen) == sorted((0, shard, at) for shard, size in enumerate(SIZES) for at in range(size))


def test_remaining_nothing_moves_on_to_the_next_epoch():
    shards = shards_of([10, 10])
    former = EpochPlan(shards, 0, Layout(9))  # two batches; 2 samples are left after them
    plan = EpochPlan(shards, 0, Layout(4), former.remaining(1))  # 11 left: two batches of 4, then 3
    assert plan.num_batches(0) == 2
    last = EpochPlan(shards, 0, Layout(20), plan.remaining(2))  # 7 left, less than a batch
    assert last.num_batches(0) == 0
    assert last.locate(2) == (1, 0)
    assert len(read(last, 0, 2, 3)) == 20


@pytest.mark.parametrize("start", [0, 3, 45, 60])
def test_the_segment_of_the_present_epoch_goes_on_alike(start):
    shards = shards_of(SIZES)
    segment = EpochPlan(shards, 0, LAYOUTS[1]).remaining(5)
    plan = EpochPlan(shards, 0, LAYOUTS[0], segment)
    simple = EpochPlan(shards, 0, LAYOUTS[0], plan.segment_at(5 + start))
    assert read(simple, 0, 5 + start, 65 + start) == read(plan, 0, 5 + start, 65 + start)
    assert (simple.segment.ranges is None) == (start >= plan.num_batches(0))


def test_the_segment_does_not_reach_back():
    with pytest.raises(ValueError, match="batch 4 is before the segment, which starts at 5"):
        EpochPlan(shards_of(SIZES), 0, Layout(5), Segment(5)).locate(4)


# ---------------------------------------------------------------- 5.2 million samples


def test_a_place_in_5_million_samples_is_planned_in_no_time():
    shards = shards_of([2000] * 2600)
    layout = Layout(64, world_size=64, num_workers=10)
    start = time.perf_counter()
    plan = EpochPlan(shards, 0, layout)
    epoch, behind = plan.locate(1_000_000 // plan.global_batch)
    slot = plan.slot(epoch, 63, 9)
    open_after([piece.size for piece in slot], 4, behind // 10 * 64)
    planned = time.perf_counter()
    rest = plan.remaining(1_000_000 // plan.global_batch)
    done = time.perf_counter()
    assert sum(piece.size for piece in slot) == plan.num_batches(0) // 10 * 64
    assert sum(piece.size for piece in rest.ranges or ()) == 5_200_000 - 1_000_000 // 4096 * 4096
    assert planned - start < 2
    assert done - planned < 5
