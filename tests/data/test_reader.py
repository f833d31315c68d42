import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy import stats
from tiny_shards import write_shard, write_shards
from torch.utils.data import DataLoader

from arl_lightning.data.seeds import sample_seed
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.shards.reader import (
    CHUNK,
    MIN_JUDGED,
    BadSampleError,
    Corpus,
    ShardStream,
    Turn,
    batches_per_slot,
    interleave,
    read_shard,
)
from arl_lightning.errors import UserError

SIZES = (13, 12, 12, 11)  # 48 samples


def name_and_seed(raw, seed):
    if raw["jpg"] == b"no image":
        raise BadSampleError("undecodable image")
    return {"key": raw["__key__"], "seed": seed}


def make_stream(folder: Path, **arguments) -> ShardStream:
    return ShardStream(Corpus.load([folder]), name_and_seed, **{"batch_size": 4, **arguments})


def make_loader(stream: ShardStream, num_workers: int = 0, persistent: bool = False) -> DataLoader:
    return DataLoader(stream, stream.batch_size, num_workers=num_workers, persistent_workers=persistent)


def take(stream: ShardStream, num_batches: int, start: int = 0, num_workers: int = 0) -> list[tuple[list, list]]:
    stream.seek(start)
    loader = make_loader(stream, num_workers)
    return [(batch["key"], batch["seed"].tolist()) for batch in itertools.islice(loader, num_batches)]


def keys(batches) -> list[str]:
    return [key for batch, _ in batches for key in batch]


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "shards", SIZES)


def test_turns_by_hand():
    turns = list(itertools.islice(interleave([2, 3, 1], open_shards=2), 8))
    assert turns == [
        Turn(0, 0, 0),
        Turn(0, 1, 0),
        Turn(0, 0, 1),
        Turn(0, 1, 1),
        Turn(0, 2, 0),
        Turn(0, 1, 2),
        Turn(1, 0, 0),
        Turn(1, 1, 0),
    ]


def test_an_epoch_of_one_slot_holds_every_sample_once(folder):
    assert sorted(keys(take(make_stream(folder), 12))) == [f"k{i:05d}" for i in range(48)]


def test_every_sample_carries_its_own_seed(folder):
    for epoch, batches in enumerate((take(make_stream(folder, seed=5), 12), take(make_stream(folder, seed=5), 12, 12))):
        for names, seeds in batches:
            assert seeds == [sample_seed(5, epoch, key) for key in names]


def test_the_next_epoch_has_another_order(folder):
    ranks = [{key: i for i, key in enumerate(keys(take(make_stream(folder), 12, 12 * epoch)))} for epoch in range(2)]
    first, second = ([order[key] for key in sorted(order)] for order in ranks)
    assert abs(stats.spearmanr(first, second).statistic) < 0.5  # the standard error of 48 is 0.15
    assert abs(stats.spearmanr(first, range(48)).statistic) < 0.5


def test_orders_of_many_epochs_are_uncorrelated(tmp_path):
    stream = make_stream(write_shards(tmp_path, [20] * 30), batch_size=600)
    orders = [keys(take(stream, 1, epoch)) for epoch in range(6)]
    places = [[order.index(key) for key in sorted(order)] for order in orders]
    correlations = [stats.spearmanr(a, b).statistic for a, b in itertools.combinations(places, 2)]
    # 30 shards move as wholes: the standard error of one is about 0.18, that of the mean of 15 about 0.05.
    assert abs(sum(correlations) / len(correlations)) < 0.15


def test_the_order_ignores_global_random_state(folder):
    random.seed(1)
    first = take(make_stream(folder), 5)
    random.seed(2)
    torch.manual_seed(2)
    assert take(make_stream(folder), 5) == first


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [1, 5, 11, 12, 13, 30])
def test_starting_later_continues_the_same_stream(folder, num_workers, start):
    stream = make_stream(folder, num_workers=num_workers)
    straight = take(stream, start + 4, num_workers=num_workers)
    assert take(stream, 4, start, num_workers) == straight[start:]


@pytest.mark.parametrize("start", [31, 32, 40, 70])
def test_starting_inside_a_later_chunk_continues_the_same_stream(tmp_path, start):
    stream = make_stream(write_shards(tmp_path, [CHUNK * 2 + 20, CHUNK * 2 + 12]))
    assert take(stream, 2, start) == take(stream, start + 2)[start:]


def test_two_ranks_share_the_samples(tmp_path):
    folder = write_shards(tmp_path, [12] * 4)
    ranks = [take(make_stream(folder, rank=r, world_size=2, num_workers=2), 6, num_workers=2) for r in range(2)]
    assert batches_per_slot(Corpus.load([folder]), 4, 2, 2) * 2 == 6
    assert len(ranks[0]) == len(ranks[1]) == 6
    assert sorted(keys(ranks[0]) + keys(ranks[1])) == [f"k{i:05d}" for i in range(48)]


def test_a_short_slot_repeats_with_other_seeds_and_a_long_one_drops(tmp_path):
    folder = write_shards(tmp_path, [20, 4])
    stream = [make_stream(folder, rank=r, world_size=2) for r in range(2)]
    batches = [take(each, 3) for each in stream]
    long, short = sorted(batches, key=lambda each: len(set(keys(each))), reverse=True)
    assert len(set(keys(long))) == 12
    assert set(Counter(keys(short)).values()) == {3}
    assert len({seed for _, seeds in short for seed in seeds}) == 12


@pytest.mark.parametrize("num_workers", [0, 2])
def test_persistent_workers_go_where_they_are_sent(folder, num_workers):
    stream = make_stream(folder, num_workers=num_workers)
    loader = make_loader(stream, num_workers, persistent=num_workers > 0)
    for start in (0, 12, 5):
        stream.seek(start)
        found = [(batch["key"], batch["seed"].tolist()) for batch in itertools.islice(loader, 3)]
        assert found == take(make_stream(folder, num_workers=num_workers), 3, start, num_workers)


def test_workers_pass_into_the_next_epoch_on_their_own(folder):
    stream = make_stream(folder, num_workers=2)
    epochs = take(stream, 24, num_workers=2)
    assert keys(epochs[:12]) != keys(epochs[12:])
    assert epochs[12][1] == [sample_seed(0, 1, key) for key in epochs[12][0]]


def test_skipping_transforms_nothing_and_leaves_finished_shards_closed(folder, monkeypatch):
    opened, transformed = [], []
    monkeypatch.setattr(
        "arl_lightning.data.shards.reader.read_shard", lambda shard: opened.append(shard.path) or read_shard(shard)
    )
    stream = make_stream(folder, open_shards=1)
    stream.transform = lambda raw, seed: transformed.append(seed) or name_and_seed(raw, seed)
    take(stream, 1, start=11)
    assert len(transformed) == 4
    assert len(opened) == 1


def test_folders_combine_wherever_they_lie(tmp_path):
    one, two = (write_shards(tmp_path / name, [8], prefix=name) for name in ("a", "b"))
    forward, backward = Corpus.load([one, two]), Corpus.load([two, one])
    assert forward.num_samples == 16
    assert forward.anatomies == {"breast": 16}
    assert forward.sha256 == backward.sha256 != Corpus.load([one]).sha256
    orders = [take(ShardStream(corpus, name_and_seed, batch_size=4), 4) for corpus in (forward, backward)]
    assert orders[0] == orders[1]


@pytest.mark.parametrize(
    ("sizes", "batch_size", "ranks", "workers", "message"),
    [
        ([4] * 3, 1, 2, 4, r"3 shards for 2 ranks x 4 workers: .*--samples_per_shard.*--data.num_workers"),
        ([4] * 4, 8, 2, 2, r"16 samples for 2 ranks x 2 workers x batches of 8: .*--data.batch_size"),
    ],
)
def test_too_little_is_refused_in_numbers(tmp_path, sizes, batch_size, ranks, workers, message):
    corpus = Corpus.load([write_shards(tmp_path, sizes)])
    with pytest.raises(UserError, match=message):
        ShardStream(corpus, name_and_seed, batch_size, world_size=ranks, num_workers=workers)


def test_a_loader_with_other_workers_is_refused(folder):
    with pytest.raises(ValueError, match="a stream for 2 workers is read by 1"):
        iter(make_stream(folder, num_workers=2))


def test_missing_shards_are_refused_before_training(folder):
    for number in (1, 3):
        (folder / f"shard-{number:06d}.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000001.tar: missing, 2 of 4 shards"):
        Corpus.load([folder])


def test_short_shards_are_refused_before_training(folder):
    path = folder / "shard-000002.tar"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(
        UserError, match=rf"shard-000002.tar: {size - 512} bytes where the manifest says {size}, 1 of 4"
    ):
        Corpus.load([folder])


def test_a_shard_cut_off_during_the_run_is_named(folder):
    stream = make_stream(folder)
    for path in folder.glob("*.tar"):
        path.write_bytes(path.read_bytes()[:7000])
    with pytest.raises(UserError, match=r"shard-00000\d.tar: (cannot be read \(unexpected end|ends after \d of 1)"):
        take(stream, 12)


def test_a_shard_removed_during_the_run_is_named(folder):
    stream = make_stream(folder)
    for path in folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(UserError, match=r"shard-00000\d.tar: cannot be read \(No such file"):
        take(stream, 1)


def test_a_shard_with_fewer_samples_than_the_manifest_says_is_named(tmp_path):
    info = write_shard(tmp_path / "shard-000000.tar", [("a", b"x")])
    Manifest((type(info)(info.name, 5, info.num_bytes, info.sha256, {"breast": 5}),)).save(tmp_path)
    with pytest.raises(UserError, match="ends after 1 of 5 samples"):
        take(make_stream(tmp_path), 1)


def test_a_bad_image_leaves_all_other_places_alone(tmp_path):
    good = take(make_stream(write_shards(tmp_path / "good", SIZES), max_bad_share=1), 12)
    order = keys(good)
    bad = order[9]
    folder = write_shards(tmp_path / "bad", SIZES, garbage=[int(bad[1:])])
    # The order follows the shards' checksums; only the images may differ here.
    manifest = Manifest.load(tmp_path / "good")
    sizes = {info.name: info.num_bytes for info in Manifest.load(folder).shards}
    Manifest(tuple(type(s)(s.name, s.num_samples, sizes[s.name], s.sha256, s.anatomies) for s in manifest.shards)).save(
        folder
    )
    stream = make_stream(folder, max_bad_share=1)
    with pytest.warns(UserWarning, match=rf"shard-00000\d.tar: {bad}: skipped: undecodable image"):
        found = take(stream, 12)
    expected = [*order[:9], order[10], *order[10:]]
    assert keys(found) == expected
    assert [seeds for _, seeds in found] == [seeds for _, seeds in good]
    with pytest.warns(UserWarning, match=bad):
        assert take(stream, 3, start=2) == found[2:5]


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_too_many_bad_images_stop_the_run(tmp_path):
    folder = write_shards(tmp_path, [60, 60], garbage=range(0, 120, 10))
    with pytest.raises(UserError, match=r"\d+ of 1\d\d images read by one worker cannot be decoded, more than 1.0%"):
        take(make_stream(folder), 60)
    assert len(take(make_stream(folder, max_bad_share=0.2), 60)) == 60


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_few_bad_images_are_not_judged_before_enough_are_read(tmp_path):
    folder = write_shards(tmp_path, [MIN_JUDGED - 10], garbage=[0])
    assert len(take(make_stream(folder, batch_size=MIN_JUDGED // 10), 9)) == 9
