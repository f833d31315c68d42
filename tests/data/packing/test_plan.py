from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from arl_lightning.data.packing.plan import LEAKED_IMAGE, LEAKED_PATIENT, Options, PlannedSource, make_plan
from arl_lightning.data.packing.spool import INDEX
from arl_lightning.errors import UserError

ANATOMIES = ("breast", "lung", "other")


def make_index(num: int, seed: int = 0, **columns) -> np.ndarray:
    """Images that have nothing in common, but for the given columns."""
    generator = np.random.default_rng(seed)
    index = np.zeros(num, INDEX)
    for name in ("key", "coarse", "sha"):
        index[name] = generator.integers(1, 2**63, num, dtype=np.uint64)
    index["detail"] = generator.integers(1, 2**63, (num, 4), dtype=np.uint64)
    for name, values in columns.items():
        index[name] = values
    return index


def plan(index: np.ndarray, held_out: np.ndarray | None = None, sources=("a",), **options):
    planned = [source if isinstance(source, PlannedSource) else PlannedSource(source) for source in sources]
    return make_plan(index, make_index(0) if held_out is None else held_out, ANATOMIES, planned, Options(**options))


def clips(num_clips: int, num_frames: int) -> np.ndarray:
    return np.repeat(np.arange(1, num_clips + 1), num_frames)


# ---------------------------------------------------------------- the shuffle


def test_all_samples_are_packed_once_in_an_order_of_the_seed():
    index = make_index(500)
    orders = [plan(index, seed=seed).orders[""] for seed in (1, 1, 2)]
    assert all(sorted(order) == list(range(500)) for order in orders)
    assert np.array_equal(orders[0], orders[1])
    # The standard error of a rank correlation of 500 is 0.045.
    assert abs(stats.spearmanr(orders[0], np.arange(500)).statistic) < 0.15
    assert abs(stats.spearmanr(np.argsort(orders[0]), np.argsort(orders[2])).statistic) < 0.15


def test_the_order_says_nothing_of_the_order_of_listing():
    """A public seed must not lead from shards back to the order of an archive's paths."""
    index = make_index(600, video=np.concatenate([clips(20, 20), np.zeros(200, int)]))
    mixed = np.random.default_rng(3).permutation(600)
    weights = {"breast": 1.5}
    one, other = plan(index, weights=weights), plan(index[mixed], weights=weights)
    assert np.array_equal(index["key"][one.orders[""]], index["key"][mixed][other.orders[""]])
    assert np.array_equal(one.copies[""], other.copies[""])


def test_the_frames_of_a_clip_are_spread_evenly():
    index = make_index(100 * 40 + 1000, video=np.concatenate([clips(100, 40), np.zeros(1000, int)]))
    order = plan(index).orders[""]
    place = np.argsort(order)
    for clip in range(100):
        own = np.sort(place[40 * clip : 40 * clip + 40])
        gaps = np.diff([*own, own[0] + index.size])
        # A stretch is 125 places; frames stand in its first half, places may shift by what other clips do.
        assert gaps.min() > 40
        assert gaps.max() < 230
    in_a_shard = [Counter(index["video"][order[start : start + 500]].tolist()) for start in range(0, 5000, 500)]
    assert max(max(count for clip, count in shard.items() if clip) for shard in in_a_shard) <= 6  # 4 are expected


def test_neighbours_of_one_clip_are_rarer_than_in_a_plain_shuffle():
    index = make_index(4000, video=clips(20, 200))
    video = index["video"][plan(index).orders[""]]
    neighbours = sum(a == b for a, b in pairwise(video))
    shuffled = np.random.default_rng(0).permutation(index["video"])
    assert neighbours < 0.2 * sum(a == b for a, b in pairwise(shuffled))


def test_where_a_frame_stands_in_its_clip_says_nothing_about_its_place():
    index = make_index(4000, video=clips(40, 100))
    place = np.argsort(plan(index).orders[""])
    assert abs(stats.spearmanr(np.tile(np.arange(100), 40), place).statistic) < 0.06  # standard error 0.016


# ---------------------------------------------------------------- splits


def test_a_patient_is_in_one_split_and_shares_are_kept():
    index = make_index(8000, patient=np.arange(8000) // 4 + 1)
    orders = plan(index, splits={"train": 0.8, "val": 0.2}).orders
    patients = {name: set(index["patient"][order]) for name, order in orders.items()}
    assert not patients["train"] & patients["val"]
    assert abs(len(patients["val"]) / 2000 - 0.2) < 0.03  # the standard error of 2,000 is 0.009


def test_a_clip_of_an_unknown_patient_is_in_one_split():
    index = make_index(1000, video=clips(50, 20))
    orders = plan(index, splits={"train": 0.5, "val": 0.5}).orders
    assert not set(index["video"][orders["train"]]) & set(index["video"][orders["val"]])


def test_a_patients_clips_are_in_one_split():
    index = make_index(1200, patient=np.arange(1200) // 30 + 1, video=clips(120, 10))
    orders = plan(index, splits={"train": 0.5, "val": 0.5}).orders
    assert not set(index["patient"][orders["train"]]) & set(index["patient"][orders["val"]])


def test_a_chain_of_pictures_each_like_the_next_does_not_become_one():
    index = make_index(30, key=range(1, 31))
    index["coarse"] = index["coarse"][0]
    for place in range(30):  # each has 10 bits more than the one before: 20 bits apart at two steps
        bits = (1 << 10 * place) - 1
        index["detail"][place] = [(bits >> shift) % 2**64 for shift in (0, 64, 128, 192)]
    index["detail"][26:] = index["detail"][26]
    made = plan(index, drop_duplicates=True)
    kept = np.flatnonzero(~made.dropped)
    assert 0 in kept
    distances = np.bitwise_count(index["detail"][:, None] ^ index["detail"][kept][None]).sum(-1)
    assert distances.min(axis=1).max() <= 24  # whatever was dropped looks like something that was kept
    assert len(kept) > 2


def test_exact_copies_are_found_whatever_else_has_their_coarse_hash():
    index = make_index(3, key=[1, 2, 3])
    index["coarse"] = index["coarse"][0]
    index["detail"][2], index["sha"][2] = index["detail"][1], index["sha"][1]
    assert plan(index).duplicates.tolist() == [[1, 2, 0]]


def test_lookalikes_of_two_patients_are_in_one_split():
    index = make_index(400, patient=np.arange(1, 401))
    index["coarse"][200:] = index["coarse"][:200]
    index["detail"][200:] = index["detail"][:200]
    orders = plan(index, splits={"train": 0.5, "val": 0.5}).orders
    split = np.zeros(400, bool)
    split[orders["val"]] = True
    assert np.array_equal(split[:200], split[200:])
    assert 60 < split[:200].sum() < 140


def test_a_patients_split_does_not_depend_on_the_other_patients():
    index = make_index(1000, patient=np.arange(1, 1001))
    few, all_of_them = (plan(part, splits={"train": 0.7, "val": 0.3}).orders["val"] for part in (index[:300], index))
    assert sorted(few) == sorted(place for place in all_of_them if place < 300)


def test_a_sources_own_splits_come_first():
    index = make_index(1000, source=np.arange(1000) % 3)
    own = PlannedSource("own", splits={"train": 0.5, "test": 0.5})
    orders = plan(index, sources=("a", own, PlannedSource("b", splits={"train": 1.0}))).orders
    assert set(orders) == {"train", "test"}
    assert set(index["source"][orders["test"]]) == {1}
    assert 100 < orders["test"].size < 230


# ---------------------------------------------------------------- weights


def test_a_weight_is_the_mean_number_of_copies():
    index = make_index(6000, anatomy=np.arange(6000) % 3, source=np.arange(6000) // 3000)
    made = plan(index, sources=("a", PlannedSource("b", 0.5)), weights={"breast": 2.5, "lung": 0.0, "a": 1.0})
    packed = Counter(made.orders[""].tolist())
    mean = {
        (a, s): np.mean([packed[i] for i in range(6000) if index["anatomy"][i] == a and index["source"][i] == s])
        for a in range(3)
        for s in range(2)
    }
    assert mean[0, 0] == pytest.approx(2.5, abs=0.06)
    assert mean[0, 1] == pytest.approx(1.25, abs=0.06)
    assert mean[1, 0] == mean[1, 1] == 0
    assert mean[2, 0] == 1
    assert mean[2, 1] == pytest.approx(0.5, abs=0.06)
    copies = made.copies[""]
    assert all(sorted(copies[made.orders[""] == i]) == list(range(n)) for i, n in list(packed.items())[:50])


def test_copies_of_an_image_are_spread_like_a_clip():
    made = plan(make_index(1000), weights={"breast": 4.0})
    for image in range(0, 1000, 50):
        own = np.flatnonzero(made.orders[""] == image)
        assert np.diff([*own, own[0] + 4000]).min() > 400


def test_only_the_first_split_is_weighted():
    orders = plan(make_index(1000), weights={"breast": 3.0}, splits={"train": 0.5, "val": 0.5}).orders
    assert max(Counter(orders["val"].tolist()).values()) == 1
    assert set(Counter(orders["train"].tolist()).values()) == {3}


# ---------------------------------------------------------------- duplicates and what is held out


def flip(values: np.ndarray, *bits: int) -> np.ndarray:
    return values ^ np.uint64(sum(1 << bit for bit in bits))


def test_the_lookalike_of_the_smallest_key_stays():
    index = make_index(10, key=[10, 11, 12, 13, 14, 15, 16, 3, 17, 18])
    index["coarse"][[4, 7]] = index["coarse"][2]
    index["detail"][[4, 7]] = index["detail"][2]
    index["coarse"][7] = flip(index["coarse"][7], 3, 9)
    made = plan(index, drop_duplicates=True)
    assert sorted(made.orders[""]) == [0, 1, 3, 5, 6, 7, 8, 9]
    assert np.flatnonzero(made.dropped).tolist() == [2, 4]
    kept = plan(index)
    assert sorted(kept.orders[""]) == list(range(10))
    assert [pair[:2].tolist() for pair in kept.duplicates] == [[7, 2], [2, 4]]  # 2 and 4 have one coarse hash


def test_frames_of_a_clip_are_duplicates_only_where_they_are_frozen():
    index = make_index(6, video=1, key=range(1, 7))
    index["coarse"], index["detail"] = index["coarse"][0], index["detail"][0]
    index["sha"][[3, 4]] = index["sha"][1]
    made = plan(index, drop_duplicates=True)
    assert sorted(made.orders[""]) == [0, 1, 2, 5]


def test_held_out_images_patients_and_clips_stay_out():
    index = make_index(8, patient=[1, 2, 3, 0, 0, 0, 0, 0], video=[0, 0, 0, 5, 5, 6, 0, 0])
    held_out = make_index(4, seed=1)
    held_out["patient"][0] = 2
    held_out["video"][1] = 5
    held_out["coarse"][2], held_out["detail"][2] = flip(index["coarse"][6], 0, 1, 2, 3), index["detail"][6]
    held_out["key"][3] = index["key"][7]
    made = plan(index, held_out)
    assert sorted(made.orders[""]) == [0, 2, 5]
    assert made.leaked.tolist() == [0, LEAKED_PATIENT, 0, LEAKED_PATIENT, LEAKED_PATIENT, 0, LEAKED_IMAGE, LEAKED_IMAGE]
    assert made.lookalike.tolist() == [-1] * 6 + [2, -1]


def test_a_held_out_image_does_not_take_its_lookalike_in_the_corpus_along():
    index = make_index(4)
    index["coarse"][2], index["detail"][2] = index["coarse"][0], index["detail"][0]
    held_out = make_index(1, seed=1, key=index["key"][0])
    made = plan(index, held_out, drop_duplicates=True)
    assert sorted(made.orders[""]) == [1, 2, 3]  # 0 is held out by name; 2 is then the first of its kind


# ---------------------------------------------------------------- refusals


def test_two_samples_of_one_name_are_a_readers_fault():
    with pytest.raises(ValueError, match="same source and name"):
        plan(make_index(3, key=[1, 2, 1]))


def test_nothing_left_is_said():
    index = make_index(3)
    with pytest.raises(UserError, match="no image is left to pack"):
        plan(index, index.copy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed -1"),
        ({"splits": {"train": 0.9}}, "add up to 1"),
        ({"splits": {"a/b": 1.0}}, "'a/b' names a folder"),
        ({"weights": {"lung": 101.0}}, "must be 0 to 100"),
        ({"weights": {"lung": float("nan")}}, "must be 0 to 100"),
        ({"duplicate_distance": 300}, "duplicate_distance 300"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Options(**options)
