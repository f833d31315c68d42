import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset

from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.shards.sample import Record, Sample
from arl_lightning.data.shards.writer import Encoding, ShardWriter
from arl_lightning.errors import UserError


def clip_frames(num_clips: int, num_frames: int) -> list[Sample]:
    """Frames in the order that a reader yields them: one clip after the other."""
    return [
        Sample(
            image=np.full((32, 40), (7 * clip + frame) % 256, dtype=np.uint8),
            anatomy="lung" if clip % 2 else "breast",
            source="set",
            name=f"{clip}.mp4#{frame}",
            video=f"{clip}.mp4",
            frame=frame,
        )
        for clip in range(num_clips)
        for frame in range(num_frames)
    ]


def write(out: Path, samples: list[Sample], samples_per_shard: int = 20, seed: int = 0, **encoding) -> Manifest:
    with ShardWriter(out, samples_per_shard, Encoding(**encoding), seed) as writer:
        for sample in samples:
            writer.add(sample)
        return writer.finish()


def stored(out: Path) -> Iterator[tuple[Record, bytes]]:
    """Read shards as any other program would."""
    shards = sorted(str(path) for path in out.glob("shard-*.tar"))
    for item in webdataset.WebDataset(shards, shardshuffle=False):
        yield json.loads(item["json"]), item.get("jpg") or item["png"]


def decode(encoded: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def file_bytes(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_every_sample_is_stored_once_with_its_record(tmp_path):
    samples = clip_frames(5, 10)
    write(tmp_path, samples)
    records = {record["name"]: record for record, _ in stored(tmp_path)}
    assert sorted(records) == sorted(sample.name for sample in samples)
    assert sum(1 for _ in stored(tmp_path)) == 50
    record = records["3.mp4#4"]
    assert {key: record[key] for key in ("anatomy", "source", "patient", "video", "frame", "height", "width")} == {
        "anatomy": "lung", "source": "set", "patient": None, "video": "3.mp4", "frame": 4, "height": 32, "width": 40,
    }  # fmt: skip


def test_a_records_sha256_is_that_of_its_image_bytes(tmp_path):
    write(tmp_path, clip_frames(3, 5))
    for record, encoded in stored(tmp_path):
        assert record["sha256"] == hashlib.sha256(encoded).hexdigest()


def test_the_manifest_matches_the_files(tmp_path):
    written = write(tmp_path, clip_frames(5, 10), samples_per_shard=16)
    manifest = Manifest.load(tmp_path)
    assert manifest == written
    assert manifest.anatomies == {"breast": 30, "lung": 20}
    for shard in manifest.shards:
        content = (tmp_path / shard.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard.sha256
        assert len(content) == shard.num_bytes
        with tarfile.open(tmp_path / shard.name) as tar:
            assert len(tar.getnames()) == 2 * shard.num_samples
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar", "shard-000003.tar",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("num_frames", "sizes"), [(50, [13, 13, 12, 12]), (16, [16]), (17, [9, 8]), (48, [16, 16, 16]), (1, [1])]
)
def test_shards_are_equal_within_one_sample(tmp_path, num_frames, sizes):
    manifest = write(tmp_path, clip_frames(1, num_frames), samples_per_shard=16)
    assert [shard.num_samples for shard in manifest.shards] == sizes


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    samples = clip_frames(4, 10)
    write(tmp_path / "a", samples, seed=3)
    write(tmp_path / "b", samples, seed=3)
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")


def test_another_seed_gives_another_order_of_the_same_samples(tmp_path):
    samples = clip_frames(4, 10)
    write(tmp_path / "a", samples, seed=0)
    write(tmp_path / "b", samples, seed=1)
    names = [[record["name"] for record, _ in stored(tmp_path / folder)] for folder in "ab"]
    assert names[0] != names[1]
    assert sorted(names[0]) == sorted(names[1])


def test_the_frames_of_a_clip_are_spread_over_all_shards(tmp_path):
    write(tmp_path, clip_frames(10, 40), samples_per_shard=40)
    records = [record for record, _ in stored(tmp_path)]
    for shard in range(10):
        counts = np.unique([record["video"] for record in records[40 * shard : 40 * shard + 40]], return_counts=True)[1]
        assert counts.max() <= 14  # 4 are expected; unshuffled it would be 40
    neighbours = sum(a["video"] == b["video"] for a, b in pairwise(records))
    assert neighbours < 80  # 39 are expected; unshuffled it would be 390


def test_png_keeps_every_pixel(tmp_path, speckle):
    grey, colour = speckle(50, 60), speckle(50, 60, 3)
    write(tmp_path, [Sample(grey, "liver", "s", "grey"), Sample(colour, "liver", "s", "colour")], image_format="png")
    images = {record["name"]: decode(encoded) for record, encoded in stored(tmp_path)}
    np.testing.assert_array_equal(images["grey"], grey)
    np.testing.assert_array_equal(images["colour"], colour)


def test_jpeg_keeps_grey_grey_and_the_channel_order(tmp_path):
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 200
    write(tmp_path, [Sample(red, "liver", "s", "red"), Sample(red[..., 0], "liver", "s", "grey")])
    images = {record["name"]: decode(encoded).astype(int) for record, encoded in stored(tmp_path)}
    assert np.abs(images["red"] - red).max() <= 3
    assert np.abs(images["grey"] - 200).max() <= 1


def test_a_lower_quality_takes_fewer_bytes(speckle):
    sizes = [len(Encoding(quality=quality).encode(speckle(64, 64))) for quality in (10, 50, 92)]
    assert sizes == sorted(set(sizes))


def test_only_larger_images_are_scaled_and_their_pixels_grow(tmp_path, speckle):
    large = Sample(speckle(100, 151), "liver", "s", "large", spacing_mm=(0.2, 0.2))
    small = Sample(speckle(40, 300), "liver", "s", "small", spacing_mm=(0.2, 0.2))
    write(tmp_path, [large, small], short_side=50, image_format="png")
    items = {record["name"]: (record, decode(encoded)) for record, encoded in stored(tmp_path)}
    record, image = items["large"]
    assert image.shape == (50, 76) == (record["height"], record["width"])
    assert record["spacing_mm"] == pytest.approx([0.2 * 100 / 50, 0.2 * 151 / 76])
    record, image = items["small"]
    np.testing.assert_array_equal(image, small.image)
    assert record["spacing_mm"] == [0.2, 0.2]


def test_scaling_averages_areas():
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
    assert (Encoding(short_side=32).scale_down(stripes) == 100).all()


def test_keys_have_no_dot_and_differ_between_sources(tmp_path):
    samples = clip_frames(2, 5)
    keys = []
    for source in ("a", "b"):
        moved = [Sample(**{**vars(sample), "source": source}) for sample in samples]
        write(tmp_path / source, moved)
        with tarfile.open(tmp_path / source / "shard-000000.tar") as tar:
            keys += [name.split(".")[0] for name in tar.getnames() if name.endswith(".json")]
            assert all(name.count(".") == 1 for name in tar.getnames())
    assert len(set(keys)) == 20


def test_two_samples_of_one_name_are_a_readers_fault(tmp_path):
    with pytest.raises(ValueError, match="same source and name"):
        write(tmp_path, clip_frames(1, 3) + clip_frames(1, 1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("present", ["manifest.json", "shard-000007.tar"])
def test_a_folder_that_holds_shards_is_refused_untouched(tmp_path, present):
    (tmp_path / present).write_text("kept")
    with pytest.raises(UserError, match=f"holds {present} already"):
        ShardWriter(tmp_path)
    assert file_bytes(tmp_path) == {present: b"kept"}


def test_a_failure_leaves_neither_shard_nor_manifest(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("arl_lightning.data.shards.writer.hashlib.file_digest", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, clip_frames(2, 5))
    assert not list(tmp_path.iterdir())


def test_the_next_writer_clears_what_a_killed_one_left(tmp_path):
    killed = ShardWriter(tmp_path)
    killed.add(clip_frames(1, 1)[0])
    (tmp_path / ".packing/shard-000000.tar").write_text("half")
    write(tmp_path, clip_frames(1, 3))
    assert sorted(file_bytes(tmp_path)) == ["manifest.json", "shard-000000.tar"]
    assert sum(1 for _ in stored(tmp_path)) == 3


def test_samples_wait_on_disk_and_not_in_memory(tmp_path, speckle):
    with ShardWriter(tmp_path, encoding=Encoding("png")) as writer:
        for index in range(20):
            writer.add(Sample(speckle(300, 300, seed=index), "liver", "s", str(index)))
        assert (tmp_path / ".packing/spool").stat().st_size > 19 * 300 * 300
        held = [value for value in vars(writer).values() if isinstance(value, list | dict | bytes)]
        assert not held


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda out: ShardWriter(out, samples_per_shard=0), "--samples_per_shard 0"),
        (lambda out: ShardWriter(out, seed=-1), "--seed -1"),
        (lambda out: ShardWriter(out, encoding=Encoding(quality=0)), "--quality 0"),
        (lambda out: ShardWriter(out, encoding=Encoding(quality=101)), "--quality 101"),
        (lambda out: ShardWriter(out, encoding=Encoding(short_side=0)), "--short_side 0"),
    ],
)
def test_wrong_numbers_are_refused_before_the_folder_is_made(tmp_path, make: Callable[[Path], ShardWriter], named: str):
    with pytest.raises(UserError, match=named):
        make(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="cannot be made or written"):
        ShardWriter(tmp_path / "out")
