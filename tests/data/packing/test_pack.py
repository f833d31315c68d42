"""What is packed, and what is said of it."""

import hashlib
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from packed import decode, make_images, pack_folder, records, stored
from PIL import Image

from arl_lightning.data.packing.command import pack_sources, shards_pack
from arl_lightning.data.packing.report import PackReport
from arl_lightning.data.shards.manifest import Manifest, ShardInfo
from arl_lightning.errors import UserError


def test_a_folder_is_packed_under_its_vocabulary_name(tmp_path):
    root = make_images(tmp_path / "hearts", 20)
    report = pack_folder(root, tmp_path / "out", "Echocardiography", samples_per_shard=8)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.anatomies == {"cardiac": 20}
    assert manifest.sources == {"hearts": 20}
    assert {record["source"] for record in records(tmp_path / "out")} == {"hearts"}
    lines = report.splitlines()
    assert lines[0].startswith("packed 20 images from 20 files in ")
    assert lines[1:] == [
        "  anatomies  cardiac 20",
        f"  shards     3 in {tmp_path / 'out'}, {sum(s.num_bytes for s in manifest.shards) / 1000:.1f} kB",
        "  rejected   none",
        f"next: arl pretrain --config recipes/pretrain/avit_tiny_cpu.yaml --data.shards {tmp_path / 'out'}",
    ]


def test_every_sample_is_stored_once_with_its_record(tmp_path, write_clip):
    root = make_images(tmp_path / "in", 5)
    write_clip(root / "a.mp4", num_frames=50, rate=25)
    report = pack_folder(root, tmp_path / "out", "lung", {"fps": 3.0}, samples_per_shard=4, image_format="png")
    assert report.startswith("packed 11 images from 6 files in ")
    by_name = {record["name"]: (record, decode(encoded)) for record, encoded in stored(tmp_path / "out")}
    assert sorted(by_name) == [
        *(f"a.mp4#{i:06d}" for i in (0, 9, 17, 25, 34, 42)),
        *(f"good0{i}.png" for i in range(5)),
    ]
    record, image = by_name["good03.png"]
    np.testing.assert_array_equal(image, cv2.imread(str(root / "good03.png"), cv2.IMREAD_GRAYSCALE))
    assert (record["anatomy"], record["video"], record["frame"], record["height"], record["width"]) == (
        "lung", None, None, 40, 48,
    )  # fmt: skip
    assert (by_name["a.mp4#000017"][0]["video"], by_name["a.mp4#000017"][0]["frame"]) == ("a.mp4", 17)


def test_the_manifest_and_the_records_match_the_files(tmp_path):
    pack_folder(make_images(tmp_path / "in", 21), tmp_path / "out", samples_per_shard=8)
    manifest = Manifest.load(tmp_path / "out")
    assert [shard.num_samples for shard in manifest.shards] == [7, 7, 7]
    for shard in manifest.shards:
        path = tmp_path / "out" / shard.name
        assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size) == (shard.sha256, shard.num_bytes)
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert len(set(names)) == 2 * shard.num_samples
            assert all(name.count(".") == 1 for name in names)
            assert {(member.mtime, member.uname) for member in tar.getmembers()} == {(0, "arl")}
    assert all(record["sha256"] == hashlib.sha256(encoded).hexdigest() for record, encoded in stored(tmp_path / "out"))


def test_several_specs_merge_into_one_shuffled_corpus(tmp_path):
    for name in ("left", "right"):
        make_images(tmp_path / "sets" / name, 20, first=20 * (name == "right"))
        (tmp_path / f"{name}.yaml").write_text(
            f"source: folder\nfolder: {name}\nanatomy: {'lung' if name == 'left' else 'liver'}\n"
            f"encoding: {{image_format: {'jpg' if name == 'left' else 'png'}}}\n"
        )
    specs = [tmp_path / "left.yaml", tmp_path / "right.yaml"]
    report = pack_sources(tmp_path / "out", specs, root=tmp_path / "sets", samples_per_shard=20, processes=1)
    assert "  sources    left 20, right 20" in report.splitlines()
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.anatomies == {"lung": 20, "liver": 20}
    assert all(4 <= shard.sources["left"] <= 16 for shard in manifest.shards)
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        assert {name.rpartition(".")[2] for name in tar.getnames()} == {"jpg", "png", "json"}


def test_encoding_is_the_specs_unless_the_command_line_gives_another(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:30, :, 0] = 200
    Image.fromarray(pixels).save(root / "red.png")
    spec = tmp_path / "s.yaml"
    spec.write_text("source: folder\nanatomy: lung\nencoding: {colour: grey, short_side: 30, image_format: png}\n")
    (grey,) = stored(tmp_path / "a") if pack_sources(tmp_path / "a", [spec], root=root) else ()
    assert decode(grey[1]).shape == (30, 45)
    pack_sources(tmp_path / "b", [spec], root=root, colour="auto", short_side="keep")
    np.testing.assert_array_equal(decode(stored(tmp_path / "b")[0][1]), pixels)


def test_rejected_files_are_all_listed_and_ten_are_shown(tmp_path):
    root = make_images(tmp_path / "in", 88, 12)
    report = pack_folder(root, tmp_path / "out", max_bad_share=0.12)
    rows = [line.split("\t") for line in (tmp_path / "out/rejected.tsv").read_text().splitlines()]
    reason = "not an image of a known format"
    assert rows == [["path", "reason"], *([str(root / f"bad{index:02d}.png"), reason] for index in range(12))]
    lines = report.splitlines()
    assert f"  rejected   12, listed in {tmp_path / 'out/rejected.tsv'}" in lines
    assert [line for line in lines if line.startswith("    ")] == [
        *(f"    {root / f'bad{index:02d}.png'}: {reason}" for index in range(10)),
        "    and 2 more",
    ]


def test_the_share_of_bad_files_is_held_from_both_sides_and_raising_it_reads_nothing_again(tmp_path):
    root = make_images(tmp_path / "in", 19, 1)
    with pytest.raises(UserError) as caught:
        pack_folder(root, tmp_path / "out", max_bad_share=0.049)
    assert str(caught.value) == (
        "in: 1 of 20 files (5.0%) cannot be read, more than --max_bad_share 0.049: bad00.png (not an image of a known "
        f"format); all are listed in {tmp_path / 'out/rejected.tsv'}; mend or exclude them, or raise --max_bad_share"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".packing", "rejected.tsv"]
    (part,) = (path for path in (tmp_path / "out/.packing/parts").iterdir() if not path.suffix)
    written = part.stat().st_mtime_ns
    os.link(part, tmp_path / "kept")  # outlives the folder
    pack_folder(root, tmp_path / "out", max_bad_share=0.05)
    assert Manifest.load(tmp_path / "out").num_samples == 19
    assert (tmp_path / "kept").stat().st_mtime_ns == written


def test_after_mending_the_files_the_same_command_works(tmp_path):
    root = make_images(tmp_path / "in", 3, 1)
    with pytest.raises(UserError):
        pack_folder(root, tmp_path / "out")
    (root / "bad00.png").unlink()
    pack_folder(root, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "shard-000000.tar"]


def test_nothing_readable_is_an_error_at_any_share(tmp_path):
    root = make_images(tmp_path / "in", 0, 5)
    with pytest.raises(UserError, match=r"5 of 5 files \(100.0%\) cannot be read, no image is left: .*, \.\.\.; all"):
        pack_folder(root, tmp_path / "out", max_bad_share=1.0)


def test_a_half_read_clip_counts_as_one_bad_file(tmp_path, write_clip):
    root = make_images(tmp_path / "in", 3)
    path = write_clip(root / "a.avi", noise=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    report = pack_folder(root, tmp_path / "out", "lung", {"fps": 5.0}, max_bad_share=0.25)
    assert "rejected   1, listed" in report
    assert Manifest.load(tmp_path / "out").num_samples > 3


def test_the_share_of_bad_files_is_that_of_each_source(tmp_path):
    make_images(tmp_path / "many", 99)
    make_images(tmp_path / "few", 1, 1)
    for name in ("many", "few"):
        (tmp_path / f"{name}.yaml").write_text(f"source: folder\nfolder: {name}\nanatomy: lung\n")
    specs = [tmp_path / "many.yaml", tmp_path / "few.yaml"]
    with pytest.raises(UserError, match=r"^few: 1 of 2 files \(50.0%\) cannot be read, more than --max_bad_share 0.05"):
        pack_sources(tmp_path / "out", specs, root=tmp_path, processes=1)


def test_two_sources_of_one_name_are_refused_before_reading(tmp_path):
    make_images(tmp_path / "in", 2)
    spec = tmp_path / "in.yaml"
    spec.write_text("source: folder\nfolder: in\nanatomy: lung\n")
    with pytest.raises(UserError, match="source 'in' is packed twice"):
        pack_sources(tmp_path / "out", [spec, spec], root=tmp_path)


def test_a_fault_of_a_reader_costs_its_unit_alone(tmp_path, monkeypatch):
    from arl_lightning.data.sources.folder import Folder

    root = make_images(tmp_path / "in", 4)
    read = Folder.read

    def fragile(source, unit):
        if unit.name == "good02.png":
            raise IndexError("an unforeseen file")
        return read(source, unit)

    monkeypatch.setattr(Folder, "read", fragile)
    report = pack_folder(root, tmp_path / "out", max_bad_share=0.5)
    assert f"    {root / 'good02.png'}: IndexError: an unforeseen file" in report.splitlines()
    assert Manifest.load(tmp_path / "out").num_samples == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"root": None}, "--root: missing"),
        ({"anatomy": None}, "anatomy"),
        ({"anatomy": "brest"}, "did you mean 'breast'"),
        ({"quality": 0}, "quality 0"),
        ({"quality": 101}, "quality 101"),
        ({"samples_per_shard": 0}, "--samples_per_shard 0"),
        ({"options": {"fps": 0.0}}, "fps 0.0"),
        ({"options": {"fsp": 1.0}}, "did you mean 'fps'"),
        ({"max_bad_share": 1.5}, "--max_bad_share 1.5"),
        ({"short_side": 0}, "short_side 0"),
        ({"processes": 0}, "--processes 0"),
        ({"seed": -1}, "seed -1"),
        ({"splits": {"train": 0.5}}, "splits .*: shares must be above 0 and add up to 1"),
        ({"splits": {"../x": 1.0}}, "'../x' names a folder"),
        ({"weights": {"breast": -1.0}}, "weights"),
        ({"options": {"exclude": ["good*"]}}, "holds no image or clip"),
        ({"source": "phantom", "root": None, "options": {"num_samples": 1}}, "anatomy"),
        ({"source": "phantom", "root": None, "anatomy": None, "options": {"num_samples": 0}}, "num_samples: 0"),
        ({"source": "folders"}, "source 'folders': unknown"),
        ({"source": None}, "name spec files"),
    ],
)
def test_wrong_arguments_are_refused_by_name_before_any_file_is_made(tmp_path, arguments, named):
    root = make_images(tmp_path / "in", 2)
    with pytest.raises(UserError, match=named):
        pack_sources(**{"out": tmp_path / "out", "source": "folder", "root": root, "anatomy": "breast", **arguments})
    assert not (tmp_path / "out").exists()


def test_the_next_command_survives_a_space_in_the_folders_name():
    manifest = Manifest((ShardInfo("shard-000000.tar", 1, 2_500_000, "", {"lung": 1}),))
    report = str(PackReport(Path("my shards"), {"": manifest}, 1, (("a.png", "empty file"),), (), 2.0))
    assert report.startswith("packed 1 image from 1 file in 2.0 s (0 img/s)")
    assert "1 in my shards, 2.5 MB" in report
    assert report.endswith("--data.shards 'my shards'")


@pytest.mark.parametrize(
    "exclude",
    [["--exclude", "*_mask*", "b/*"], ["--exclude", '["*_mask*", "b/*"]'], ['--exclude=["*_mask*", "b/*"]']],
)  # fmt: skip
def test_the_command_line_takes_patterns_as_people_type_them(tmp_path, exclude):
    root = make_images(tmp_path / "in", 3)
    Image.new("L", (40, 40)).save(root / "good00_mask.png")
    make_images(root / "b", 2)
    words = ["--source", "folder", "--root", str(root), "--anatomy", "lung", "--out", str(tmp_path / "out")]
    report = shards_pack([*words, *exclude, "--samples-per-shard", "2", "--drop-duplicates"])
    assert report.startswith("packed 3 images from 3 files in ")
    assert len(Manifest.load(tmp_path / "out").shards) == 2


def test_a_dry_run_packs_nothing(tmp_path):
    root = make_images(tmp_path / "in", 3)
    words = ["--source=folder", f"--root={root}", "--anatomy=lung"]
    assert shards_pack([*words, f"--out={tmp_path / 'out'}", "--dry-run"]) == "in: 3 files would be read"
    assert not (tmp_path / "out").exists()
    assert shards_pack([*words, "--dry-run"]) == "in: 3 files would be read"
    with pytest.raises(UserError, match="--out: missing"):
        shards_pack(words)


def test_real_images_are_packed_at_their_short_side(tmp_path, ultrasound_data):
    options = {"exclude": ["*_Annotation*"]}
    pack_folder(ultrasound_data / "hc18", tmp_path / "out", "fetal", options, short_side=256)
    assert Manifest.load(tmp_path / "out").anatomies == {"other": 50}
    assert all(min(record["height"], record["width"]) == 256 for record in records(tmp_path / "out"))


def test_a_name_that_is_no_unicode_is_stored_readably(tmp_path):
    root = make_images(tmp_path / "in", 1)
    (root / "good00.png").rename(root / os.fsdecode(b"\xff\t.png"))
    pack_folder(root, tmp_path / "out")
    (record,) = records(tmp_path / "out")
    assert record["name"] == "\\xff\t.png"
    record["name"].encode()


def test_a_table_keeps_its_columns(tmp_path):
    root = make_images(tmp_path / "in", 3)
    (root / "a\tb\nc.png").write_bytes(b"")
    pack_folder(root, tmp_path / "out", max_bad_share=0.5)
    rows = (tmp_path / "out/rejected.tsv").read_text().splitlines()
    assert [len(row.split("\t")) for row in rows] == [2, 2]


def test_an_archive_is_surveyed_reviewed_and_packed(tmp_path, ultrasound_data, monkeypatch):
    monkeypatch.setenv("ARL_DEID_KEY", "9f3a61c4d27e805b1e94a7f06c3d82b5407be9d16fa852c3e08d3b7491c6f52a")
    words = ["--source=dicom", f"--root={ultrasound_data / 'dicom'}", "--name=site03"]
    survey = shards_pack([*words, "--dry-run"])
    assert "13" in survey
    assert "cardiac" in survey
    assert "sheets of" in shards_pack([*words, "--review", str(tmp_path / "review")])
    assert cv2.imread(str(tmp_path / "review/sheet-0000.png")).std() > 10
    report = shards_pack([*words, f"--out={tmp_path / 'out'}", "--processes=2"])
    assert Manifest.load(tmp_path / "out").sources == {"site03": 8}
    assert "rejected   6, listed in" in report
    flagged = (tmp_path / "out/flagged.tsv").read_text().splitlines()
    assert flagged[0] == "path\treason"
    assert len(flagged) > 1
    assert not any(".dcm" in line for line in flagged + (tmp_path / "out/rejected.tsv").read_text().splitlines())


def test_an_archive_without_a_key_is_refused(tmp_path, ultrasound_data, monkeypatch):
    monkeypatch.delenv("ARL_DEID_KEY", raising=False)
    words = ["--source=dicom", f"--root={ultrasound_data / 'dicom'}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match="ARL_DEID_KEY"):
        shards_pack(words)
    assert not (tmp_path / "out").exists()


def test_review_sheets_are_of_archives_alone(tmp_path):
    root = make_images(tmp_path / "in", 2)
    with pytest.raises(UserError, match="--review: draws DICOM archives"):
        shards_pack(["--source=folder", f"--root={root}", "--anatomy=lung", f"--review={tmp_path / 'review'}"])
