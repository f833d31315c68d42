import re

import pytest
from tiny_shards import write_shards

from arl_lightning.data.shards.manifest import Manifest, ShardInfo
from arl_lightning.data.tuning.preflight import preflight
from arl_lightning.errors import UserError

SPEEDS = {"images_per_second_per_gpu": 300.0, "images_per_second_per_core": 900.0}
PAPER = {"nodes": 8, "gpus_per_node": 8, "workers": 10, "batch_size": 128, **SPEEDS}
SMALL = {"batch_size": 4, "global_size": 32, "local_size": 16}


@pytest.fixture
def make_manifest(tmp_path):
    """Lists shards that are not there, of 110 kB a sample."""

    def make(num_shards: int, num_samples: int) -> str:
        shard = (num_samples, 110_000 * num_samples, "0" * 64, {"breast": num_samples})
        Manifest(tuple(ShardInfo(f"shard-{index:06d}.tar", *shard) for index in range(num_shards))).save(tmp_path)
        return str(tmp_path)

    return make


def test_the_papers_corpus_by_hand(make_manifest):
    report = preflight(make_manifest(2600, 2000), **PAPER)
    assert report.shards_per_worker == 2600 / 640 == 4.0625
    assert report.num_batches == 634  # 5,200,000 / (64 x 128) = 634.8
    assert report.num_used == 5_193_728
    assert report.num_dropped == 6_272
    assert report.epoch_minutes == pytest.approx(5_193_728 / 19_200 / 60)
    assert report.mb_per_second == pytest.approx(8 * 300 * 0.11)
    assert report.cores_per_node == 11  # 8 x (300 / 900 + 1) = 10.7
    for row in ("8 nodes x 8 GPUs = 64, 10 workers each", "5,200,000 samples in 2,600 shards, 110.0 kB each", "  4.06"):
        assert row in str(report)
    assert "264.0 MB/s a node, 2,112.0 MB/s in all" in str(report)
    assert "634 of each rank" in str(report)
    assert "6,272 dropped (0.12%)" in str(report)
    assert "300 img/s, an assumption" in str(report)


def test_the_papers_memory_by_hand(make_manifest):
    folder = make_manifest(2600, 2000)
    memory = preflight(folder, **PAPER).memory
    assert memory.encoded == 80 * 4 * 64 * 110_000
    batch = 128 * (2 * 224**2 + 8 * 96**2)
    assert batch == 22_282_240
    assert memory.shared == 80 * 3 * batch
    assert memory.taken == 8 * (2 + 10 * 2) * (2**24 + 2**24)  # 12.8 and 9.4 MB, pinned as 16.8 MB each
    assert memory.total == 13_506_117_632
    assert "13.51 GB" in str(preflight(folder, **PAPER))
    pageable = preflight(folder, **PAPER, pin_memory=False).memory
    assert pageable.taken == 8 * 2 * batch
    assert preflight(folder, **PAPER, in_chans=3, pin_memory=False).memory.taken == 3 * pageable.taken


def test_without_workers_one_process_reads(make_manifest):
    report = preflight(make_manifest(2600, 2000), **(PAPER | {"workers": 0}), pin_memory=False)
    assert report.shards_per_worker == 2600 / 64
    assert report.memory.shared == 0
    assert report.memory.encoded == 8 * 4 * 64 * 110_000


def test_few_shards_a_worker_are_pointed_out(make_manifest):
    assert "3.12, fewer than open_shards 4" in str(preflight(make_manifest(2000, 2000), **PAPER))


@pytest.mark.parametrize(
    ("corpus", "changed", "message", "option", "enough", "too_little"),
    [
        ((600, 2000), {}, r"600 shards for 64 ranks x 10 workers: use --workers 9 at most", "workers", 9, 10),
        ((640, 10), {}, r"6,400 samples for 64 ranks x .* 128: use --batch_size 100 at most", "batch_size", 100, 101),
        (
            (2600, 2000),
            {"workers": 2, "images_per_second_per_core": 100.0},
            r"--workers 2: give 200 img/s where a GPU takes 300: use --workers 3 at least",
            "workers", 3, 2,
        ),
        ((2600, 2000), {"cores_per_node": 4}, r"4: 8 GPUs need 11, .*: give 11 cores", "cores_per_node", 11, 10),
        ((2600, 2000), {"memory_per_node": 13.0}, r"need 13.51 GB: give 14 GB", "memory_per_node", 14, 13),
        ((2600, 2000), {"memory_per_node": 13.0}, r"or use --workers 9 at most", "workers", 9, 10),
    ],
)  # fmt: skip
def test_what_would_starve_or_hang_is_refused_with_the_number_that_would_do(
    make_manifest, corpus, changed, message, option, enough, too_little
):
    folder, given = make_manifest(*corpus), PAPER | changed
    with pytest.raises(UserError, match=message):
        preflight(folder, **given)
    preflight(folder, **(given | {option: enough}))
    with pytest.raises(UserError):
        preflight(folder, **(given | {option: too_little}))


def test_packing_as_advised_gives_enough_shards(make_manifest):
    with pytest.raises(UserError, match=r"at least 640 shards \(--samples_per_shard 1875\)"):
        preflight(make_manifest(600, 2000), **PAPER)
    assert preflight(make_manifest(600 * 2000 // 1875, 1875), **PAPER).shards_per_worker == 1


def test_fewer_shards_than_ranks_need_fewer_gpus(make_manifest):
    message = r"60 shards for 64 ranks x 10 workers: use 60 GPUs at most .* or pack at least 640 shards"
    with pytest.raises(UserError, match=message):
        preflight(make_manifest(60, 2000), **PAPER)


def test_more_workers_than_shards_would_allow_are_not_advised_alone(make_manifest):
    slow = PAPER | {"images_per_second_per_core": 10.0}
    with pytest.raises(UserError, match=r"use --workers 30 at least and pack at least 1,920 shards"):
        preflight(make_manifest(640, 2000), **slow)


def test_a_batch_too_large_for_the_memory_of_one_worker_is_named(make_manifest):
    given = PAPER | {"workers": 1, "memory_per_node": 1.0}
    with pytest.raises(UserError, match=r"give 2 GB, or use --batch_size \d+ at most") as refused:
        preflight(make_manifest(2600, 2000), **given)
    fitting = int(re.findall(r"--batch_size (\d+)", str(refused.value))[0])
    assert preflight(make_manifest(2600, 2000), **(given | {"batch_size": fitting})).memory.total <= 1e9


@pytest.mark.parametrize("option", ["nodes", "gpus_per_node", "batch_size", "images_per_second_per_gpu"])
def test_zero_of_what_is_needed_is_refused(make_manifest, option):
    with pytest.raises(UserError, match=f"--{option} 0: must be"):
        preflight(make_manifest(2600, 2000), **(PAPER | {option: 0}))


def test_the_speed_is_measured_on_the_shards(tmp_path):
    folder = write_shards(tmp_path / "shards", [10] * 6)
    report = preflight(str(folder), workers=1, images_per_second_per_gpu=1.0, num_images=8, **SMALL)
    assert report.speed.measured
    assert report.speed.per_core > 20
    assert "measured here on this corpus" in str(report)
    assert report.record_bytes == sum(path.stat().st_size for path in folder.glob("*.tar")) / 60


def test_files_are_looked_at_on_demand(tmp_path):
    folder = write_shards(tmp_path / "shards", [10] * 4)
    given = {"workers": 1, **SPEEDS, **SMALL}
    assert "all there" in str(preflight(str(folder), **given, check_files=True))
    (folder / "shard-000002.tar").unlink()
    assert "not looked at" in str(preflight(str(folder), **given))
    with pytest.raises(UserError, match=r"shard-000002.tar: missing, 1 of 4 shards"):
        preflight(str(folder), **given, check_files=True)


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_the_speed_of_shards_that_are_not_there_is_not_measured(make_manifest):
    with pytest.raises(UserError, match=r"shard-\d+.tar: cannot be read"):
        preflight(make_manifest(8, 10), workers=1, **SMALL)
