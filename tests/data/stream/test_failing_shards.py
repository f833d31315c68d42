"""Shards and images that go bad while they are read: nobody stops, no place shifts, everything is counted."""

import dataclasses
import itertools
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from test_reader import SIZES, keys, make_loader, make_stream, take
from tiny_shards import write_shards

from arl_lightning.data.seeds import sample_seed
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.stream import reader
from arl_lightning.data.stream.damage import MIN_JUDGED, DamageReport
from arl_lightning.data.stream.epoch import CHUNK, Piece, Segment
from arl_lightning.data.stream.storage import Shard
from arl_lightning.errors import UserError

WAITS = [0.5, 1.0, 2.0, 4.0]


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "shards", SIZES)


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def cut_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2048])


def damage_first_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def blank(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def report(stream) -> DamageReport:
    return DamageReport(stream.corpus.shards, stream.damage.total())


def members(folder: Path, number: int) -> set[str]:
    first = sum(SIZES[:number])
    return {f"k{index:05d}" for index in range(first, first + SIZES[number])}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (remove, "No such file or directory"),
        (truncate, "ends "),
        (cut_the_end, "ends "),
        (damage_first_header, "damaged header at byte 0"),
        (blank, "ends after 0 of 13 samples"),
    ],
)
def test_a_shard_that_cannot_be_read_is_retried_then_replaced_place_by_place(folder, spoil, reason):
    good = take(make_stream(folder), 12)
    waits: list[float] = []
    stream = make_stream(folder, sleep=waits.append)
    spoil(folder / "shard-000000.tar")
    with pytest.warns(UserWarning, match=rf"shard-000000.tar: skipped, .*: {reason}") as caught:
        found = take(stream, 12)
    assert len([each for each in caught if "shard-000000" in str(each.message)]) == 1
    assert waits == WAITS
    absent = members(folder, 0)
    places = list(zip(keys(good), [s for _, seeds in good for s in seeds], strict=True))
    new = list(zip(keys(found), [s for _, seeds in found for s in seeds], strict=True))
    replaced = [(a, b) for a, b in zip(places, new, strict=True) if a[0] in absent]
    assert all(a == b for a, b in zip(places, new, strict=True) if a[0] not in absent)
    assert len(replaced) == 13
    assert not {b[0] for _, b in replaced} & absent
    assert len({b[0] for _, b in replaced}) >= 11  # one lap of the next shard, not one image again and again
    assert len({seed for _, seed in new}) == 48
    assert (report(stream).num_replaced, [each.url for each in report(stream).lost]) == (
        13,
        [str(folder / "shard-000000.tar")],
    )


@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize("start", [1, 5, 11, 14])
def test_a_run_resumed_while_a_shard_is_lost_continues_the_same_stream(folder, start):
    stream = make_stream(folder, read_retries=0)
    remove(folder / "shard-000002.tar")
    straight = take(stream, start + 4)
    assert take(stream, 4, start) == straight[start:]


def test_a_shard_is_named_once_however_often_it_is_lost(folder):
    stream = make_stream(folder, read_retries=0)
    remove(folder / "shard-000001.tar")
    with pytest.warns(UserWarning, match="shard-000001.tar: skipped") as caught:
        take(stream, 36)
    assert len([each for each in caught if "skipped" in str(each.message)]) == 1


def test_a_lost_shard_is_not_tried_again_in_its_epoch(folder):
    waits: list[float] = []
    stream = make_stream(folder, sleep=waits.append)
    first = next(index for index, shard in enumerate(stream.corpus.shards) if "shard-000001" in shard.url)
    stream.seek(0, Segment(0, 0, (Piece(first, 0, 4), Piece(first, 6, 12))))
    remove(folder / "shard-000001.tar")
    with pytest.warns(UserWarning, match="shard-000001.tar: skipped"):
        list(itertools.islice(stream, 8))
    assert waits == WAITS


def test_a_failure_that_passes_changes_nothing(folder):
    expected = take(make_stream(folder), 12)
    path = folder / "shard-000001.tar"
    hidden = folder / "hidden"
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            hidden.rename(path)

    stream = make_stream(folder, sleep=sleep)
    path.rename(hidden)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert take(stream, 12) == expected
    assert waits == [0.5, 1.0]
    assert report(stream).num_replaced == 0


def test_a_failure_within_a_shard_goes_on_from_the_same_record(tmp_path):
    folder = write_shards(tmp_path, [CHUNK * 3])
    path = folder / "shard-000000.tar"
    whole = path.read_bytes()
    expected = keys(take(make_stream(folder), 48))
    stream = make_stream(folder, sleep=lambda seconds: path.write_bytes(whole))
    stream.seek(0)
    batches = iter(make_loader(stream))
    found = [next(batches) for _ in range(10)]
    # The file is open, and breaks off within the second chunk.
    with path.open("r+b") as file:
        file.truncate(len(whole) // 2)
    found += itertools.islice(batches, 38)
    assert [key for batch in found for key in batch["key"]] == expected


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_the_part_of_a_shard_before_the_damage_is_used(tmp_path):
    folder = write_shards(tmp_path, [CHUNK * 2, 40])
    good = keys(take(make_stream(folder), 42))
    path = folder / "shard-000000.tar"
    stream = make_stream(folder, read_retries=0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    found = keys(take(stream, 42))
    different = {a for a, b in zip(good, found, strict=True) if a != b}
    assert different == {f"k{index:05d}" for index in range(CHUNK, 2 * CHUNK)}


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_a_shard_that_comes_back_is_read_in_the_next_epoch(folder):
    expected = take(make_stream(folder), 24)
    stream = make_stream(folder, read_retries=0)
    path = folder / "shard-000001.tar"
    path.rename(folder / "hidden")
    stream.seek(0)
    batches = iter(make_loader(stream))
    first = [next(batches)["key"] for _ in range(12)]
    (folder / "hidden").rename(path)
    second = [next(batches)["key"] for _ in range(12)]
    assert first != [names for names, _ in expected[:12]]
    assert second == [names for names, _ in expected[12:]]


@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_stay_in_step_and_every_loss_is_counted(tmp_path, num_workers):
    folder = write_shards(tmp_path, [10] * 8)
    sizes = {"rank": 0, "world_size": 2, "num_workers": num_workers, "batch_size": 5, "read_retries": 0}
    streams = [make_stream(folder, **{**sizes, "rank": rank}) for rank in range(2)]
    gone = [folder / f"shard-00000{number}.tar" for number in (1, 2, 6)]
    for path in gone:
        path.unlink()
    found = [take(stream, 8, 0, num_workers) for stream in streams]
    assert [len(batches) for batches in found] == [8, 8]
    total = sum((stream.damage.total() for stream in streams), torch.zeros(()))
    both = DamageReport(streams[0].corpus.shards, total.to(torch.int64))
    assert {Path(shard.url) for shard in both.lost} == set(gone)
    assert both.num_replaced >= 30  # workers prepare batches that are never taken, from the next epoch on
    assert both.share == pytest.approx(3 / 8)


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_a_worker_stops_once_no_shard_at_all_can_be_read(folder):
    stream = make_stream(folder, read_retries=0)
    for path in folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(UserError, match=r"shard-00000\d.tar: cannot be read, nor can any other of 4 shards; see that"):
        take(stream, 1)


# ---------------------------------------------------------------- images


def spoiled(tmp_path: Path, garbage, sizes=SIZES) -> Path:
    """Shards with undecodable images, and the good shards' checksums, which the order follows."""
    write_shards(tmp_path / "good", sizes)
    folder = write_shards(tmp_path / "bad", sizes, garbage=garbage)
    digests = {info.name: info.sha256 for info in Manifest.load(tmp_path / "good").shards}
    infos = Manifest.load(folder).shards
    Manifest(tuple(dataclasses.replace(info, sha256=digests[info.name]) for info in infos)).save(folder)
    return folder


def test_a_bad_image_leaves_all_other_places_alone(tmp_path):
    good = take(make_stream(write_shards(tmp_path / "good", SIZES)), 12)
    order = keys(good)
    bad = order[9]
    folder = spoiled(tmp_path / "spoiled", [int(bad[1:])])
    stream = make_stream(folder)
    with pytest.warns(UserWarning, match=rf"shard-00000\d.tar: {bad}: skipped: undecodable image"):
        found = take(stream, 12)
    assert keys(found) == [*order[:9], order[10], *order[10:]]
    assert [seeds for _, seeds in found] == [seeds for _, seeds in good]
    assert (report(stream).num_undecodable, report(stream).num_replaced, report(stream).num_read) == (1, 1, 48)
    with pytest.warns(UserWarning, match=bad):
        assert take(stream, 3, start=2) == found[2:5]


@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_bad_image_at_the_end_of_an_epoch_is_resumed_alike(tmp_path, num_workers):
    # 9 batches of 5 an epoch: with 3 workers every batch's last image is somebody's last one before a checkpoint.
    folder = spoiled(tmp_path, range(0, 48, 4))
    stream = make_stream(folder, num_workers=num_workers, batch_size=5)
    straight = take(stream, 22, 0, num_workers)
    for start in (7, 8, 9, 10, 11, 17, 18):
        assert take(stream, 4, start, num_workers) == straight[start : start + 4]


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_a_corpus_without_images_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_BAD_RUN", 60)
    with pytest.raises(UserError, match=r"\.tar: 60 undecodable images in a row; pack the shards again"):
        take(make_stream(write_shards(tmp_path / "bad", SIZES, garbage=range(48))), 1)


# ---------------------------------------------------------------- the report


def counts(num_read: int, undecodable, displaced, lost) -> torch.Tensor:
    return torch.tensor([num_read, *undecodable, *displaced, *lost])


SHARDS = [Shard(f"{name}.tar", size, 0, name) for name, size in (("a", 10), ("b", 30), ("c", 60))]


def test_the_report_by_hand():
    found = DamageReport(SHARDS, counts(200, [1, 0, 3], [0, 4, 0], [0, 2, 0]))
    assert (found.num_read, found.num_undecodable, found.num_replaced) == (200, 4, 8)
    assert found.lost == [SHARDS[1]]
    assert found.share == pytest.approx(0.3 + 0.02)
    assert str(found) == (
        "32.00% of the corpus cannot be used: 4 of 200 images read are undecodable, 1 of 3 shards are lost (b.tar,"
        " c.tar, a.tar)"
    )


def test_few_images_are_not_judged():
    assert DamageReport(SHARDS, counts(MIN_JUDGED - 1, [50, 0, 0], [0] * 3, [0] * 3)).share == 0
    assert DamageReport(SHARDS, counts(MIN_JUDGED, [50, 0, 0], [0] * 3, [0] * 3)).share == 0.5


def test_a_long_report_names_the_worst_shards():
    shards = [Shard(f"{index}.tar", 1, 0, str(index)) for index in range(9)]
    text = str(DamageReport(shards, counts(900, range(9), [0] * 9, [0] * 9)))
    assert text.endswith("(8.tar, 7.tar, 6.tar, 5.tar, 4.tar and 3 more)")


def test_seeds_of_replaced_places_are_their_own(folder):
    stream = make_stream(folder, read_retries=0)
    usual = {sample_seed(0, 0, f"k{index:05d}") for index in range(48)}
    remove(folder / "shard-000003.tar")
    with pytest.warns(UserWarning, match="skipped"):
        found = take(stream, 12)
    seeds = [seed for _, each in found for seed in each]
    assert Counter(seed in usual for seed in seeds) == {True: 37, False: 11}
