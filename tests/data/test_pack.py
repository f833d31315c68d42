import json
from pathlib import Path

import jsonargparse
import numpy as np
import pytest
import webdataset
from PIL import Image

from arl_lightning.data.shards.manifest import Manifest, ShardInfo
from arl_lightning.data.shards.pack import PackReport, pack
from arl_lightning.data.shards.sample import Rejected
from arl_lightning.errors import UserError


def make_images(root: Path, num_good: int, num_bad: int = 0) -> Path:
    root.mkdir()
    for index in range(num_good):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 48), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"good{index:02d}.png")
    for index in range(num_bad):
        (root / f"bad{index:02d}.png").write_bytes(b"no image")
    return root


def records(out: Path) -> list[dict]:
    shards = sorted(str(path) for path in out.glob("shard-*.tar"))
    return [json.loads(item["json"]) for item in webdataset.WebDataset(shards, shardshuffle=False)]


def test_a_folder_is_packed_under_its_vocabulary_name(tmp_path):
    root = make_images(tmp_path / "hearts", 20)
    report = pack("folder", tmp_path / "out", root, "Echocardiography", samples_per_shard=8)
    assert report.manifest == Manifest.load(tmp_path / "out")
    assert report.manifest.anatomies == {"cardiac": 20}
    assert {record["source"] for record in records(tmp_path / "out")} == {"hearts"}
    lines = str(report).splitlines()
    assert lines[0].startswith("packed 20 images from 20 files in ")
    assert lines[1:] == [
        "  anatomies  cardiac 20",
        f"  shards     3 in {tmp_path / 'out'}, {sum(s.num_bytes for s in report.manifest.shards) / 1000:.1f} kB",
        "  rejected   none",
        f"next: arl pretrain --config recipes/pretrain/avit_tiny_cpu.yaml --data.shards {tmp_path / 'out'}",
    ]


def test_clips_give_more_images_than_files(tmp_path, write_clip):
    root = make_images(tmp_path / "in", 3)
    write_clip(root / "a.mp4", num_frames=50, rate=25)
    report = pack("folder", tmp_path / "out", root, "lung", fps=3.0)
    assert str(report).startswith("packed 9 images from 4 files in ")


@pytest.mark.parametrize("exclude", ["*_mask*", ["*_mask*"]])
def test_masks_are_left_out(tmp_path, exclude):
    root = make_images(tmp_path / "in", 3)
    Image.new("L", (40, 40)).save(root / "good00_mask.png")
    report = pack("folder", tmp_path / "out", root, "breast", exclude=exclude)
    assert (report.num_files, report.manifest.num_samples) == (3, 3)


def test_rejected_files_are_all_listed_and_ten_are_shown(tmp_path):
    root = make_images(tmp_path / "in", 88, 12)
    report = pack("folder", tmp_path / "out", root, "breast", max_bad_share=0.12)
    rows = [line.split("\t") for line in (tmp_path / "out/rejected.tsv").read_text().splitlines()]
    reason = "not an image of a known format"
    assert rows == [["path", "reason"], *([str(root / f"bad{index:02d}.png"), reason] for index in range(12))]
    lines = str(report).splitlines()
    assert f"  rejected   12, listed in {tmp_path / 'out/rejected.tsv'}" in lines
    assert [line for line in lines if line.startswith("    ")] == [
        *(f"    {root / f'bad{index:02d}.png'}: {reason}" for index in range(10)),
        "    and 2 more",
    ]


def test_the_share_of_bad_files_is_held_from_both_sides(tmp_path):
    root = make_images(tmp_path / "in", 19, 1)
    assert pack("folder", tmp_path / "at", root, "breast", max_bad_share=0.05).manifest.num_samples == 19
    with pytest.raises(UserError) as caught:
        pack("folder", tmp_path / "above", root, "breast", max_bad_share=0.049)
    assert str(caught.value) == (
        "1 of 20 files (5.0%) cannot be read, more than --max_bad_share 0.049: bad00.png (not an image of a known "
        f"format); all are listed in {tmp_path / 'above/rejected.tsv'}; mend or exclude them, or raise --max_bad_share"
    )
    assert [path.name for path in (tmp_path / "above").iterdir()] == ["rejected.tsv"]


def test_after_mending_the_files_the_same_command_works(tmp_path):
    root = make_images(tmp_path / "in", 3, 1)
    with pytest.raises(UserError):
        pack("folder", tmp_path / "out", root, "breast")
    (root / "bad00.png").unlink()
    pack("folder", tmp_path / "out", root, "breast")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "shard-000000.tar"]


def test_nothing_readable_is_an_error_at_any_share(tmp_path):
    root = make_images(tmp_path / "in", 0, 5)
    with pytest.raises(UserError, match=r"5 of 5 files \(100.0%\) cannot be read, no image is left: .*, \.\.\.; all"):
        pack("folder", tmp_path / "out", root, "breast", max_bad_share=1.0)


def test_a_half_read_clip_counts_as_one_bad_file(tmp_path, write_clip):
    root = make_images(tmp_path / "in", 3)
    path = write_clip(root / "a.avi", noise=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    report = pack("folder", tmp_path / "out", root, "lung", fps=5.0, max_bad_share=0.25)
    assert [item.path for item in report.rejected] == [path]
    assert report.manifest.num_samples > 3


def test_packed_shards_are_never_overwritten(tmp_path):
    root = make_images(tmp_path / "in", 3)
    pack("folder", tmp_path / "out", root, "breast")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match="choose another --out folder or delete this one"):
        pack("folder", tmp_path / "out", root, "breast", seed=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"root": None}, "--root: missing"),
        ({"anatomy": None}, "--anatomy: missing"),
        ({"anatomy": "brest"}, "did you mean 'breast'"),
        ({"quality": 0}, "--quality 0"),
        ({"quality": 101}, "--quality 101"),
        ({"samples_per_shard": 0}, "--samples_per_shard 0"),
        ({"fps": 0.0}, "fps 0.0"),
        ({"max_bad_share": 1.5}, "--max_bad_share 1.5"),
        ({"short_side": 0}, "--short_side 0"),
        ({"exclude": "good*"}, "holds no image or clip"),
        ({"source": "phantom"}, "--root, --anatomy: the phantom has no files"),
        ({"source": "phantom", "root": None, "anatomy": None, "num_samples": 0}, "--num_samples 0"),
    ],
)
def test_wrong_arguments_are_refused_by_name_before_any_file_is_made(tmp_path, arguments, named):
    root = make_images(tmp_path / "in", 2)
    with pytest.raises(UserError, match=named):
        pack(**{"source": "folder", "out": tmp_path / "out", "root": root, "anatomy": "breast", **arguments})
    assert not (tmp_path / "out").exists()


def test_the_phantom_is_packed_without_files(tmp_path):
    report = pack("phantom", tmp_path / "out", num_samples=6, seed=1)
    assert str(report).startswith("packed 6 images in ")
    assert len({record["name"] for record in records(tmp_path / "out")}) == 6


def test_the_next_command_survives_a_space_in_the_folders_name():
    manifest = Manifest((ShardInfo("shard-000000.tar", 1, 2_500_000, "", {"lung": 1}),))
    report = str(PackReport(Path("my shards"), manifest, 1, (Rejected(Path("a.png"), "empty file"),), 2.0))
    assert report.startswith("packed 1 image from 1 file in 2.0 s (0 img/s)")
    assert "1 in my shards, 2.5 MB" in report
    assert report.endswith("--data.shards 'my shards'")


def test_the_command_line_takes_one_pattern_or_several(tmp_path):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(pack)
    fixed = ["--source", "folder", "--out", "x", "--root", str(tmp_path), "--anatomy", "lung", "--short_side", "null"]
    parsed = parser.parse_args([*fixed, "--exclude", "*_mask*"])
    assert (parsed.exclude, parsed.short_side, parsed.root) == ("*_mask*", None, tmp_path)
    assert parser.parse_args([*fixed, "--exclude+", "*_mask*", "--exclude+", "b/*"]).exclude == ["*_mask*", "b/*"]


def test_real_images_are_packed_at_their_short_side(tmp_path, ultrasound_data):
    report = pack("folder", tmp_path / "out", ultrasound_data / "hc18", "fetal", "*_Annotation*", short_side=256)
    assert report.manifest.anatomies == {"other": 50}
    assert all(min(record["height"], record["width"]) == 256 for record in records(tmp_path / "out"))
