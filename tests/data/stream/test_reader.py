import hashlib
import itertools
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_shards import write_shard, write_shards
from torch.utils.data import DataLoader

from arl_lightning.data.seeds import sample_seed
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.shards.tars import HEADER_BUFFER
from arl_lightning.data.stream.corpus import Corpus
from arl_lightning.data.stream.epoch import CHUNK
from arl_lightning.data.stream.reader import ShardStream
from arl_lightning.data.stream.records import BadSampleError
from arl_lightning.data.stream.storage import Shard
from arl_lightning.errors import UserError

SIZES = (13, 12, 12, 11)  # 48 samples


def name_and_seed(raw, seed):
    if raw["jpg"] == b"no image":
        raise BadSampleError("undecodable image")
    return {"key": raw["__key__"], "seed": seed}


def make_stream(folder: Path, **arguments) -> ShardStream:
    return ShardStream(Corpus.load([folder]), name_and_seed, **{"batch_size": 4, **arguments})


def make_loader(stream: ShardStream, num_workers: int = 0, persistent: bool = False) -> DataLoader:
    return DataLoader(stream, stream.layout.batch_size, num_workers=num_workers, persistent_workers=persistent)


def take(stream: ShardStream, num_batches: int, start: int = 0, num_workers: int = 0) -> list[tuple[list, list]]:
    stream.seek(start)
    loader = make_loader(stream, num_workers)
    return [(batch["key"], batch["seed"].tolist()) for batch in itertools.islice(loader, num_batches)]


def keys(batches) -> list[str]:
    return [key for batch, _ in batches for key in batch]


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "shards", SIZES)


# ---------------------------------------------------------------- order


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


def test_neighbours_in_a_clip_meet_in_a_batch_as_rarely_as_in_a_perfect_shuffle(tmp_path):
    num_clips, clip_length, batch_size, num_workers = 60, 40, 32, 2
    num = num_clips * clip_length
    packed = np.random.default_rng(0).permutation(num)  # as the packer shuffles: over all shards
    infos = [
        write_shard(tmp_path / f"shard-{shard:06d}.tar", [(f"{frame:05d}", b"x") for frame in frames])
        for shard, frames in enumerate(np.array_split(packed, 30))
    ]
    Manifest(tuple(infos)).save(tmp_path)
    neighbours = same_clip = num_batches = 0
    streams = [
        make_stream(tmp_path, batch_size=batch_size, rank=rank, world_size=2, num_workers=num_workers)
        for rank in range(2)
    ]
    for stream, epoch in itertools.product(streams, range(4)):
        total = stream.plan.num_batches(epoch)
        for names, _ in take(stream, total, epoch * total, num_workers):
            frames = sorted(int(name) for name in names)
            gaps = [b - a for a, b in itertools.combinations(frames, 2) if a // clip_length == b // clip_length]
            neighbours += gaps.count(1)
            same_clip += len(gaps)
            num_batches += 1
    # Of all pairs, the share that a batch holds is (B - 1) / (N - 1) a sample; counts are about Poisson.
    pairs = num_batches * batch_size * (batch_size - 1) / 2
    expected = pairs * (clip_length - 1) / (num - 1)
    expected_neighbours = pairs * num_clips * (clip_length - 1) / (num * (num - 1) / 2)
    assert num_batches == 2 * 4 * 37
    assert expected == pytest.approx(2386, abs=1)
    assert expected_neighbours == pytest.approx(119, abs=1)
    assert abs(same_clip - expected) < 4 * expected**0.5
    assert abs(neighbours - expected_neighbours) < 4 * expected_neighbours**0.5


def test_the_order_ignores_global_random_state(folder):
    random.seed(1)
    first = take(make_stream(folder), 5)
    random.seed(2)
    torch.manual_seed(2)
    assert take(make_stream(folder), 5) == first


def test_folders_combine_wherever_they_lie(tmp_path):
    one, two = (write_shards(tmp_path / name, [8], prefix=name) for name in ("a", "b"))
    forward, backward = Corpus.load([one, two]), Corpus.load([two, one])
    assert forward.num_samples == 16
    assert forward.anatomies == {"breast": 16}
    assert forward.sha256 == backward.sha256 != Corpus.load([one]).sha256
    orders = [take(ShardStream(corpus, name_and_seed, batch_size=4), 4) for corpus in (forward, backward)]
    assert orders[0] == orders[1]


# ---------------------------------------------------------------- places


@pytest.mark.parametrize("num_workers", [0, 2, 3])
@pytest.mark.parametrize("start", [1, 5, 8, 9, 10, 22])
def test_starting_later_continues_the_same_stream(folder, num_workers, start):
    # 9 batches of 5: an epoch ends in the middle of the workers' turns.
    stream = make_stream(folder, num_workers=num_workers, batch_size=5)
    straight = take(stream, start + 4, num_workers=num_workers)
    assert take(stream, 4, start, num_workers) == straight[start:]


@pytest.mark.parametrize("start", [31, 32, 40, 70])
def test_starting_inside_a_later_chunk_continues_the_same_stream(tmp_path, start):
    stream = make_stream(write_shards(tmp_path, [CHUNK * 2 + 20, CHUNK * 2 + 12]))
    assert take(stream, 2, start) == take(stream, start + 2)[start:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_and_workers_share_the_samples_and_have_as_many_batches_as_the_length_says(tmp_path, num_workers):
    folder = write_shards(tmp_path, [20, 4, 12, 14])
    streams = [make_stream(folder, rank=r, world_size=2, num_workers=num_workers, batch_size=3) for r in range(2)]
    assert [len(stream) for stream in streams] == [24, 24]  # 50 samples: 8 batches of 2 x 3
    for epoch in range(2):
        found = [take(stream, 8, 8 * epoch, num_workers) for stream in streams]
        assert set(Counter(keys(found[0] + found[1])).values()) == {1}
        for batches in found:
            assert all(
                seed == sample_seed(0, epoch, key)
                for names, seeds in batches
                for key, seed in zip(names, seeds, strict=True)
            )


def test_the_loader_knows_its_batches_before_the_epoch(folder):
    stream = make_stream(folder, batch_size=5, num_workers=2)
    assert len(make_loader(stream, 2)) == stream.plan.num_batches(0) == 9


@pytest.mark.parametrize("num_workers", [0, 2])
def test_persistent_workers_go_where_they_are_sent(folder, num_workers):
    stream = make_stream(folder, num_workers=num_workers)
    loader = make_loader(stream, num_workers, persistent=num_workers > 0)
    for start in (0, 12, 5):
        stream.seek(start)
        found = [(batch["key"], batch["seed"].tolist()) for batch in itertools.islice(loader, 3)]
        assert found == take(make_stream(folder, num_workers=num_workers), 3, start, num_workers)


def test_persistent_workers_do_not_replay_the_first_epoch(folder):
    stream = make_stream(folder, num_workers=2)
    loader = make_loader(stream, 2, persistent=True)
    epochs = []
    for epoch in range(3):
        stream.seek(12 * epoch)
        epochs.append(keys((batch["key"], None) for batch in itertools.islice(loader, 12)))
    assert [len(set(epoch)) for epoch in epochs] == [48] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_workers_pass_into_the_next_epoch_on_their_own(folder):
    stream = make_stream(folder, num_workers=2, batch_size=5)
    batches = take(stream, 27, num_workers=2)
    for epoch in range(3):
        names = keys(batches[9 * epoch : 9 * epoch + 9])
        assert len(set(names)) == 45
        assert batches[9 * epoch][1] == [sample_seed(0, epoch, key) for key in batches[9 * epoch][0]]


def test_a_loader_with_other_workers_is_refused(folder):
    with pytest.raises(ValueError, match="a stream for 2 workers is read by 1"):
        iter(make_stream(folder, num_workers=2))


@pytest.fixture
def opened(monkeypatch):
    """Every shard that is opened."""
    from arl_lightning.data.stream import records

    original, urls = records.open_stream, []
    monkeypatch.setattr(records, "open_stream", lambda url: urls.append(url) or original(url))
    return urls


def bytes_read() -> int:
    """Bytes that this process has asked the system for so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_skipping_transforms_nothing_and_opens_only_what_is_open_there(tmp_path, opened):
    transformed = []
    stream = make_stream(write_shards(tmp_path, [8] * 40), open_shards=3)
    stream.transform = lambda raw, seed: transformed.append(seed) or name_and_seed(raw, seed)
    take(stream, 1, start=50)
    assert len(transformed) == 4
    assert len(opened) == 3


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count bytes read")
def test_skipping_in_a_local_shard_reads_headers_alone(tmp_path):
    # Records of 100 kB; place 300 is in the fifth chunk, so 256 records are passed over and 64 read.
    members = [(f"k{i:05d}", bytes(100_000)) for i in range(CHUNK * 5)]
    Manifest((write_shard(tmp_path / "shard-000000.tar", members),)).save(tmp_path)
    stream = make_stream(tmp_path)
    assert keys(take(stream, 1, start=75)) == keys(take(stream, 76))[300:304]
    before = bytes_read()
    take(stream, 1, start=75)
    assert bytes_read() - before < 110_000 * CHUNK + 2 * HEADER_BUFFER * CHUNK * 5


def test_a_run_resumed_at_sample_1_000_000_of_2600_shards_starts_in_no_time(tmp_path, opened):
    info = write_shard(tmp_path / "shard.tar", [(f"k{i:05d}", b"x") for i in range(2000)])
    path = str(tmp_path / "shard.tar")  # one file stands for all
    shards = [Shard(path, 2000, info.num_bytes, hashlib.sha256(str(i).encode()).hexdigest()) for i in range(2600)]
    start = time.perf_counter()
    stream = ShardStream(Corpus(tuple(shards), {}), name_and_seed, 64)
    batch = take(stream, 1, start=1_004_032 // 64)
    assert time.perf_counter() - start < 5  # measured: 0.1 s
    assert len(batch[0][0]) == 64
    assert len(opened) == 4


# ---------------------------------------------------------------- before training


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
