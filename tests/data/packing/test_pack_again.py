"""Packing that is stopped, repeated or disturbed."""

import errno
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest
from packed import StoppedError, file_bytes, make_images, pack_folder, records, stopped_after
from PIL import Image

from arl_lightning.data.packing import staging
from arl_lightning.data.packing.command import pack_sources
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.errors import UserError


def test_a_failing_disk_costs_no_file(tmp_path, monkeypatch):
    root = make_images(tmp_path / "in", 6)
    load, left = Image.open, [3]

    def failing(path, *more, **options):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return load(path, *more, **options)

    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(UserError, match=r"good03.png: Stale file handle; .* goes on where it stopped"):
        pack_folder(root, tmp_path / "out", max_bad_share=1.0)
    monkeypatch.undo()
    pack_folder(root, tmp_path / "out", max_bad_share=1.0)
    assert Manifest.load(tmp_path / "out").num_samples == 6


def test_shards_are_not_written_among_review_sheets(tmp_path):
    root = make_images(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/paths.tsv").write_text("name\tpath\n")
    with pytest.raises(UserError, match="holds review sheets, which name patients"):
        pack_folder(root, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["paths.tsv"]


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(tmp_path, monkeypatch):
    root = make_images(tmp_path / "in", 40)
    monkeypatch.setattr(staging, "UNITS_PER_PART", 8)
    outs = [tmp_path / name for name in ("one", "two", "other")]
    for out, processes, seed in zip(outs, (1, 2, 1), (3, 3, 4), strict=True):
        pack_sources(
            out, source="folder", root=root, anatomy="lung", processes=processes, seed=seed, samples_per_shard=9
        )
    one, two, other = (file_bytes(out) for out in outs)
    assert one == two
    assert one["shard-000000.tar"] != other["shard-000000.tar"]
    names = [[record["name"] for record in records(out)] for out in outs]
    assert names[0] != names[2]
    assert sorted(names[0]) == sorted(names[2])


KILLED = """
import sys
from pathlib import Path
from arl_lightning.data.packing import staging
from arl_lightning.data.packing.command import pack_sources
staging.UNITS_PER_PART = 4
if __name__ == "__main__":
    root, out, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    pack_sources(out, source="folder", root=root, anatomy="lung", samples_per_shard=8, processes=processes,
                 splits={"train": 0.8, "val": 0.2})
"""


def test_a_packing_killed_again_and_again_gives_the_same_bytes(tmp_path):
    root = make_images(tmp_path / "in", 60)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    run = [sys.executable, str(script), str(root)]
    subprocess.run([*run, str(tmp_path / "straight"), "1"], check=True, capture_output=True)
    straight, out = file_bytes(tmp_path / "straight"), tmp_path / "out"
    num_kills = 0
    for num_files in (0, 1, 3, 8, 15, 17, 20, 24):  # parts and shards that are whole when it is killed
        process = subprocess.Popen(
            [*run, str(out), "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and len(list(out.rglob("*.json"))) < num_files:
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            num_kills += 1
        process.wait()
    assert num_kills >= 5
    subprocess.run([*run, str(out), "2"], check=True, capture_output=True)
    assert file_bytes(out) == straight
    assert {name.partition("/")[0] for name in straight} == {"train", "val"}


@pytest.mark.parametrize("stop_after", range(12))
def test_a_stop_at_any_rename_or_deletion_is_mended(tmp_path, monkeypatch, stop_after):
    """Interrupt between any two renames of files into place: the tests above cannot aim so finely."""
    root = make_images(tmp_path / "in", 12)
    settings = {"samples_per_shard": 3, "splits": {"train": 0.7, "val": 0.3}}
    pack_folder(root, tmp_path / "straight", **settings)
    stopped_after(2 * stop_after, monkeypatch, lambda: pack_folder(root, tmp_path / "out", **settings))
    pack_folder(root, tmp_path / "out", **settings)
    assert file_bytes(tmp_path / "out") == file_bytes(tmp_path / "straight")


def test_changed_files_are_read_again(tmp_path):
    root = make_images(tmp_path / "in", 3, 1)
    with pytest.raises(UserError, match="--max_bad_share"):
        pack_folder(root, tmp_path / "out")
    time.sleep(0.01)
    Image.new("L", (64, 64), 77).save(root / "bad00.png")
    pack_folder(root, tmp_path / "out")
    assert Manifest.load(tmp_path / "out").num_samples == 4


def test_the_same_command_again_says_that_all_is_there_and_another_is_refused(tmp_path):
    root = make_images(tmp_path / "in", 3)
    pack_folder(root, tmp_path / "out")
    before = file_bytes(tmp_path / "out")
    assert "3 images from 3 files are packed already" in pack_folder(root, tmp_path / "out")
    with pytest.raises(UserError, match="choose another --out folder or delete this one"):
        pack_folder(root, tmp_path / "out", seed=1)
    assert file_bytes(tmp_path / "out") == before


def test_shards_of_unknown_origin_are_refused_untouched(tmp_path):
    root = make_images(tmp_path / "in", 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/shard-000007.tar").write_text("kept")
    with pytest.raises(UserError, match=r"holds shard-000007.tar without a manifest"):
        pack_folder(root, tmp_path / "out")
    assert file_bytes(tmp_path / "out") == {"shard-000007.tar": b"kept"}


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path, monkeypatch):
    root = make_images(tmp_path / "in", 12)

    def full(*_):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("arl_lightning.data.packing.writer._HashedTar.add", full)
    with pytest.raises(UserError, match=r"somewhere: No space left on device; make room .* goes on where it stopped"):
        pack_folder(root, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"kB of shards for 1.0 kB of free space; make room"):
        pack_folder(root, tmp_path / "out")
    monkeypatch.undo()
    pack_folder(root, tmp_path / "out")
    assert Manifest.load(tmp_path / "out").num_samples == 12


def test_a_killed_worker_is_one_line_and_the_same_command_goes_on(tmp_path, monkeypatch):
    root = make_images(tmp_path / "in", 20)
    monkeypatch.setattr(staging, "UNITS_PER_PART", 5)
    monkeypatch.setattr(staging, "_read_part", _die)
    with pytest.raises(UserError, match="a worker process was killed, perhaps for want of memory"):
        pack_sources(tmp_path / "out", source="folder", root=root, anatomy="lung", processes=2)
    monkeypatch.undo()
    pack_folder(root, tmp_path / "out", "lung")
    assert Manifest.load(tmp_path / "out").num_samples == 20


def _die(part):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    "changed",
    [
        {"anatomies": ["hip", "knee"]},
        {"quality": 50},
        {"samples_per_shard": 3},
        {"splits": {"train": 0.5, "val": 0.5}},
        {"weights": {"knee": 2.0}},
        {"exclude_task": ["t={held}"]},
        {"seed": 5},
    ],
)
def test_other_options_after_a_stop_give_what_they_would_have_given_at_once(tmp_path, monkeypatch, changed):
    root = make_images(tmp_path / "in", 12)
    make_images(tmp_path / "held", 2, first=3)
    changed = {name: [f"t={tmp_path / 'held'}"] if name == "exclude_task" else value for name, value in changed.items()}
    first = {"anatomies": ["knee", "hip"], "samples_per_shard": 2}
    for stop_after in (0, 2, 4, 9, 14, 21, 24):  # renames: of a part, of shards, into place
        out = tmp_path / f"out{stop_after}"
        stopped_after(stop_after, monkeypatch, lambda out=out: pack_folder(root, out, "hip", **first))
        pack_folder(root, out, "hip", **{**first, **changed})
        straight = tmp_path / f"straight{stop_after}"
        pack_folder(root, straight, "hip", **{**first, **changed})
        assert file_bytes(out) == file_bytes(straight)


def test_shards_that_are_not_ours_stay_whatever_is_packed_beside_them(tmp_path, monkeypatch):
    root = make_images(tmp_path / "in", 6)
    out = tmp_path / "out"
    stopped_after(4, monkeypatch, lambda: pack_folder(root, out))
    (out / "copied").mkdir()
    (out / "copied/shard-000000.tar").write_text("kept")  # a copy under way, without its manifest as yet
    pack_folder(root, out)
    assert (out / "copied/shard-000000.tar").read_text() == "kept"
    assert Manifest.load(out).num_samples == 6


def test_what_was_held_out_before_a_stop_can_be_packed_after_it(tmp_path, monkeypatch):
    root = make_images(tmp_path / "in", 4)
    for number, label in enumerate(("benign", "malignant", "normal")):
        make_images(tmp_path / "busi" / label, 3, first=10 + 3 * number)
    out = tmp_path / "out"
    held = [f"busi={tmp_path / 'busi'}"]
    stopped_after(6, monkeypatch, lambda: pack_folder(root, out, exclude_task=held))
    for folder in (out, tmp_path / "straight"):
        pack_sources(folder, source="busi", root=tmp_path / "busi", processes=1)
    assert Manifest.load(out).num_samples == 9
    assert file_bytes(out) == file_bytes(tmp_path / "straight")


def test_at_every_rename_what_has_its_name_is_whole(tmp_path, monkeypatch):
    root = make_images(tmp_path / "in", 8)
    settings = {"samples_per_shard": 3, "splits": {"train": 0.6, "val": 0.4}}
    pack_folder(root, tmp_path / "straight", **settings)
    whole = file_bytes(tmp_path / "straight")
    for num_renames in itertools.count():
        out = tmp_path / str(num_renames)
        stopped_after(num_renames, monkeypatch, lambda out=out: pack_folder(root, out, **settings))
        in_place = {
            name: content
            for name, content in file_bytes(out).items()
            if not name.startswith(".packing") and not name.endswith(".tmp")
        }
        assert all(whole[name] == content for name, content in in_place.items())
        for split in ("train", "val"):
            if f"{split}/manifest.json" in in_place:
                shards = {name for name in whole if name.startswith(split)}
                assert shards <= in_place.keys()
        if in_place == whole and not list(out.glob(".packing*")):
            break
    assert num_renames > 10


def test_a_part_that_lost_its_end_is_read_again(tmp_path, monkeypatch):
    root = make_images(tmp_path / "in", 4)
    out = tmp_path / "out"
    stopped_after(3, monkeypatch, lambda: pack_folder(root, out))
    (report,) = (out / ".packing/parts").glob("*.json")
    report.write_bytes(report.read_bytes()[:10])  # as a power cut leaves it
    pack_folder(root, out)
    assert Manifest.load(out).num_samples == 4


def test_a_finished_corpus_stays_finished_when_a_check_of_it_is_killed(tmp_path, monkeypatch):
    root = make_images(tmp_path / "in", 4)
    pack_folder(root, tmp_path / "out")

    def killed(*_):
        raise StoppedError

    monkeypatch.setattr("arl_lightning.data.packing.pack.refuse_other_corpus", killed)
    with pytest.raises(StoppedError):
        pack_folder(root, tmp_path / "out")
    monkeypatch.undo()
    (tmp_path / "out/.packing").mkdir(exist_ok=True)  # a kill -9 would leave it
    assert "are packed already" in pack_folder(root, tmp_path / "out")


def test_two_packers_do_not_share_a_folder(tmp_path, monkeypatch):
    root = make_images(tmp_path / "in", 4)
    listed = staging.list_parts

    def while_another_tries(*arguments):
        with pytest.raises(UserError, match="another process packs into it"):
            pack_folder(root, tmp_path / "out", quality=50)
        return listed(*arguments)

    monkeypatch.setattr("arl_lightning.data.packing.pack.list_parts", while_another_tries)
    pack_folder(root, tmp_path / "out")
    assert Manifest.load(tmp_path / "out").num_samples == 4


SLOW = """
import sys, time
from pathlib import Path
from arl_lightning.data import processes
def slow(number):
    time.sleep(0.1)
    Path(sys.argv[1], str(number)).touch()
if __name__ == "__main__":
    list(processes.run_jobs(slow, list(range(1000)), 2))
"""


def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stderr=subprocess.DEVNULL)
    while len(list(tmp_path.iterdir())) < 3:
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(0.5)
    before = len(list(tmp_path.iterdir()))
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) == before


def test_how_the_root_is_spelt_does_not_matter(tmp_path):
    root = make_images(tmp_path / "in", 3)
    pack_folder(root, tmp_path / "out")
    assert "are packed already" in pack_folder(tmp_path / "out/../in", tmp_path / "out")


def test_an_empty_folder_of_the_users_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="no such folder"):
        pack_folder(tmp_path / "none", tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()
    assert not list((tmp_path / "mine").iterdir())


def test_shards_are_not_written_among_what_is_packed(tmp_path):
    root = make_images(tmp_path / "in", 2)
    with pytest.raises(UserError, match=r"lies in .* which is packed"):
        pack_folder(root, root / "shards")
