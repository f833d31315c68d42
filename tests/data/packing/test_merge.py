import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_corpus import Item, make_item, make_items, write_corpus

from arl_lightning.data.packing.merge import merge
from arl_lightning.data.shards.inventory import list_shards
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.shards.tars import walk_entries
from arl_lightning.data.shards.verify import verify
from arl_lightning.errors import UserError


def corpus(folder: Path, first: int, count: int, per_shard: int = 10, **record) -> Path:
    items = [make_item(first + index, **record) for index in range(count)]
    return write_corpus(folder, [items[start : start + per_shard] for start in range(0, count, per_shard)])


def stored(folder: Path) -> dict[str, list[tuple[str, bytes, bytes]]]:
    """Each shard's keys, images and records, as they stand."""
    content = {}
    for shard in list_shards(folder):
        with shard.path.open("rb") as file:
            entries = list(walk_entries(file))
            content[shard.name] = [(each.key, each.image.read(file), each.record.read(file)) for each in entries]
    return content


def samples(folder: Path) -> list[tuple[str, bytes, bytes]]:
    return [sample for shard in stored(folder).values() for sample in shard]


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """60 breast images of `a` as JPEG and 40 cardiac ones of `b` as PNG."""
    return [
        corpus(tmp_path / "a", 0, 60, source="a"),
        corpus(tmp_path / "b", 100, 40, source="b", anatomy="cardiac", extension="png"),
    ]


def test_every_sample_is_there_once_byte_for_byte(two, tmp_path):
    report = merge(two, tmp_path / "out", samples_per_shard=30, processes=1)
    assert sorted(samples(tmp_path / "out")) == sorted(samples(two[0]) + samples(two[1]))
    assert [shard.num_samples for shard in report.manifests[""].shards] == [25, 25, 25, 25]
    assert report.manifests[""].anatomies == {"breast": 60, "cardiac": 40}
    assert report.manifests[""].sources == {"a": 60, "b": 40}
    assert verify(tmp_path / "out", processes=1).num_samples == 100
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[0] == "manifest.json"
    lines = str(report).splitlines()
    assert lines[0].startswith("merged 100 images of 2 corpora in ")
    assert lines[1:3] == ["  anatomies  breast 60, cardiac 40", "  sources    a 60, b 40"]
    assert lines[3].startswith(f"  shards     4 in {tmp_path / 'out'}, ")


def test_the_corpora_are_shuffled_into_one_another(two, tmp_path):
    merge(two, tmp_path / "out", samples_per_shard=25, processes=1)
    for shard in Manifest.load(tmp_path / "out").shards:
        assert 4 <= shard.sources["b"] <= 16  # 10 are expected, with a deviation of 2.1
    order = [int(key, 16) for key, _, _ in samples(tmp_path / "out")]
    assert abs(np.corrcoef(order, np.arange(100))[0, 1]) < 0.3


def test_the_frames_of_a_clip_are_spread_over_all_shards(tmp_path):
    frames = [make_item(index, video=f"v{index // 8}", frame=index % 8) for index in range(80)]
    merge([write_corpus(tmp_path / "in", [frames])], tmp_path / "out", samples_per_shard=10, processes=1)
    for shard in stored(tmp_path / "out").values():
        clips = Counter((int(key, 16) - 0xABC0) // 8 for key, _, _ in shard)
        assert max(clips.values()) <= 3  # unshuffled it would be 8


def test_the_bytes_depend_on_seed_and_inputs_alone(two, tmp_path):
    for name, options in {
        "one": {"processes": 1},
        "two": {"processes": 2},
        "other": {"seed": 1, "processes": 1},
    }.items():
        merge(two, tmp_path / name, samples_per_shard=30, **options)
    assert file_bytes(tmp_path / "one") == file_bytes(tmp_path / "two")
    assert samples(tmp_path / "one") != samples(tmp_path / "other")


def test_a_sample_of_two_corpora_is_refused_with_both_named(two, tmp_path):
    third = corpus(tmp_path / "c", 58, 4, source="a")
    with pytest.raises(UserError) as caught:
        merge([*two, third], tmp_path / "out", processes=1)
    assert str(caught.value) == (
        f"sample {0xABC0 + 58:016x} (a/58.png) stands in {two[0] / 'shard-000005.tar'} and in"
        f" {third / 'shard-000000.tar'}, 2 samples in all; merge only one of these corpora"
    )
    assert not (tmp_path / "out").exists()


def test_splits_are_merged_one_by_one_and_the_rest_joins_train(two, tmp_path):
    split = tmp_path / "split"
    corpus(split / "train", 200, 10, source="c")
    corpus(split / "val", 300, 5, source="c")
    report = merge([split, *two], tmp_path / "out", processes=1)
    assert {name: manifest.sources for name, manifest in report.manifests.items()} == {
        "train": {"a": 60, "b": 40, "c": 10},
        "val": {"c": 5},
    }
    assert sorted(samples(tmp_path / "out/val")) == sorted(samples(split / "val"))
    assert verify(tmp_path / "out", processes=1).num_samples == 115


def test_where_no_split_is_train_nothing_can_join_it(two, tmp_path):
    corpus(tmp_path / "split/fit", 200, 10)
    with pytest.raises(UserError, match="splits fit, and none is named 'train'"):
        merge([tmp_path / "split", *two], tmp_path / "out", processes=1)


@pytest.mark.parametrize("field", ["patient", "video"])
def test_a_patient_of_two_splits_is_refused(tmp_path, field):
    corpus(tmp_path / "split/train", 0, 10, source="a", **{field: "7"})
    corpus(tmp_path / "split/val", 10, 10, source="b", **{field: "7"})  # another source: another patient
    merge([tmp_path / "split"], tmp_path / "out", processes=1)
    corpus(tmp_path / "more/val", 20, 10, source="a", **{field: "7"})
    with pytest.raises(UserError, match=rf"{field} 7 of a stands in .*split/train/.* in another split, in .*more/val/"):
        merge([tmp_path / "split", tmp_path / "more"], tmp_path / "out2", processes=1)


def test_weights_repeat_and_leave_out_but_not_in_val(two, tmp_path):
    corpus(tmp_path / "split/train", 200, 10, source="c")
    corpus(tmp_path / "split/val", 300, 5, source="a")
    weights = {"a": 2, "cardiac": 0, "c": 0.5}
    report = merge([tmp_path / "split", *two], tmp_path / "out", weights=weights, processes=1)
    train = report.manifests["train"].sources
    assert train["a"] == 120
    assert "b" not in train
    assert 1 <= train["c"] <= 9
    assert report.manifests["val"].sources == {"a": 5}
    keys = [key for key, _, _ in samples(tmp_path / "out")]
    assert len(set(keys)) == len(keys)  # each copy has a key, and so draws, of its own
    images = Counter(image for _, image, _ in samples(tmp_path / "out/train"))
    assert sorted(set(images.values())) == [1, 2]
    assert verify(tmp_path / "out", processes=1).num_samples == len(keys)


def test_copies_of_copies_have_keys_of_their_own(two, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    merge(two, once, weights={"a": 2}, processes=1)
    merge([once], twice, weights={"a": 2}, processes=1)
    assert merge([twice], tmp_path / "out", weights={"a": 2}, processes=1).manifests[""].sources == {"a": 480, "b": 40}
    assert verify(tmp_path / "out", processes=1).num_samples == 520


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"weights": {"knee": 2}}, "weights: 'knee' is neither an anatomy nor a source here"),
        ({"weights": {"a": -1}}, "weights {'a': -1}"),
        ({"weights": {"breast": 0, "cardiac": 0}}, "no image is left"),
        ({"samples_per_shard": 0}, "--samples_per_shard 0"),
        ({"seed": -1}, "seed -1"),
        ({"processes": 0}, "--processes 0"),
        ({"shards": []}, "name the packed folders"),
    ],
)
def test_wrong_arguments_are_refused_before_any_file_is_made(two, tmp_path, options, named):
    with pytest.raises(UserError, match=named):
        merge(**{"shards": two, "out": tmp_path / "out", "processes": 1, **options})
    assert not (tmp_path / "out").exists()


def test_a_damaged_shard_is_refused_by_name(two, tmp_path):
    path = two[1] / "shard-000002.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path}: its sha256 .*`arl shards verify {two[1]}`"):
        merge(two, tmp_path / "out", processes=1)
    path.write_bytes(content[:3000])
    with pytest.raises(UserError, match=rf"{path}: ends "):
        merge(two, tmp_path / "out", processes=1)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path}: cannot be read \(No such file"):
        merge(two, tmp_path / "out", processes=1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda item: item.record.pop("source"), "does not follow the schema"),
        (lambda item: setattr(item, "key", "ABC"), "sample ABC: its key is not 16 hexadecimal digits"),
        (lambda item: item.more.update(txt=b""), r"holds a \.txt file"),
    ],
)
def test_a_sample_that_is_none_of_ours_is_refused(tmp_path, change, named):
    items: list[Item] = [make_item(0), make_item(1)]
    change(items[1])
    with pytest.raises(UserError, match=named):
        merge([write_corpus(tmp_path / "in", [items])], tmp_path / "out", processes=1)


def test_merged_again_nothing_is_done_and_with_other_options_it_is_refused(two, tmp_path):
    merge(two, tmp_path / "out", processes=1)
    before = file_bytes(tmp_path / "out")
    assert str(merge(two, tmp_path / "out", processes=1)).startswith("100 images of 2 corpora are merged already")
    with pytest.raises(UserError, match="holds another corpus"):
        merge(two, tmp_path / "out", seed=1, processes=1)
    with pytest.raises(UserError, match="holds another corpus"):
        merge(two[:1], tmp_path / "out", processes=1)
    assert file_bytes(tmp_path / "out") == before


def test_the_inputs_are_never_written_into(two):
    for out in (two[0], two[0] / "merged"):
        with pytest.raises(UserError, match=f"lies in {two[0]}"):
            merge(two, out, processes=1)


def test_too_small_a_disk_is_told_before_writing(two, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"kB of shards for 1\.0 kB of free space"):
        merge(two, tmp_path / "out", processes=1)


def test_killed_and_called_again_the_shards_are_the_same(tmp_path):
    folder = write_corpus(tmp_path / "in", make_items(4, 100))
    call = (
        "from pathlib import Path; from arl_lightning.data.packing.merge import merge;"
        f"merge([Path({str(folder)!r})], Path({str(tmp_path / 'out')!r}), samples_per_shard=1, processes=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", call], stderr=subprocess.DEVNULL)
    while not list((tmp_path / "out").rglob("*-shard-000020.tar")):
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "out/.packing").is_dir()
    assert not (tmp_path / "out/manifest.json").exists()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*-shard-0000[01]?.tar")}
    assert len(written) == 20
    merge([folder], tmp_path / "out", samples_per_shard=1, processes=1)
    merge([folder], tmp_path / "reference", samples_per_shard=1, processes=1)
    assert file_bytes(tmp_path / "out") == file_bytes(tmp_path / "reference")
    moved = {path.name.removeprefix("-"): time for path, time in written.items()}
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in moved.items())  # not again


def test_a_manifest_that_counts_wrongly_is_refused(two, tmp_path):
    infos = list(Manifest.load(two[0]).shards)
    infos[1] = dataclasses.replace(infos[1], num_samples=11)
    Manifest(tuple(infos)).save(two[0])
    with pytest.raises(UserError, match=r"shard-000001\.tar: its sha256 or number of samples"):
        merge(two, tmp_path / "out", processes=1)
