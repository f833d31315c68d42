"""Splits, weights, duplicates, and what is held out."""

import dataclasses
import itertools
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from packed import file_bytes, make_images, pack_folder, records
from PIL import Image

from arl_lightning.data.packing.command import HELD_OUT, pack_sources
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.sources.registry import source_class
from arl_lightning.errors import UserError


def test_no_patient_is_in_two_splits(tmp_path):
    report = pack_sources(
        tmp_path / "out", source="phantom", options={"num_samples": 170, "size": (64, 64)},
        splits={"train": 0.7, "val": 0.2, "test": 0.1}, processes=1,
    )  # fmt: skip
    patients = {split: {r["patient"] for r in records(tmp_path / "out" / split)} for split in ("train", "val", "test")}
    assert sum(len(records(tmp_path / "out" / split)) for split in patients) == 170
    assert all(patients.values())
    assert not any(patients[a] & patients[b] for a, b in itertools.combinations(patients, 2))
    assert "  train: " in report
    assert len(patients["train"]) > len(patients["val"])


def test_weights_repeat_and_thin_out(tmp_path):
    counts = Counter()
    pack_sources(
        tmp_path / "out", source="phantom", processes=1,
        options={"num_samples": 120, "anatomies": ("lung", "liver", "breast"), "size": (64, 64)},
        weights={"lung": 2.5, "liver": 0.25, "phantom": 2.0},
    )  # fmt: skip
    for record in records(tmp_path / "out"):
        counts[record["name"]] += 1
    lung, liver, breast = ([counts[f"{name}/{i:06d}"] for i in range(p, 120, 3)] for p, name in enumerate(
        ("lung", "liver", "breast")))  # fmt: skip
    assert set(lung) == {5}
    assert set(breast) == {2}
    assert set(liver) == {0, 1}
    assert 10 <= sum(liver) <= 30  # 40 images of weight 0.5
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:  # a copy has a name, and so draws, of its own
        assert len(set(tar.getnames())) == 2 * sum(counts.values())


def test_images_that_look_like_held_out_ones_stay_out(tmp_path, ultrasound_data):
    small = ultrasound_data / "busi_full_resolution_sample"
    report = pack_folder(
        ultrasound_data / "busi", tmp_path / "out", options={"include": ["malignant (1*"], "exclude": ["*_mask*"]},
        exclude_task=[f"reported={small}"],
    )  # fmt: skip
    held_out = {path.name for path in small.rglob("*.png") if "_mask" not in path.name}
    packed = {Path(record["name"]).name for record in records(tmp_path / "out")}
    assert len({"malignant (123).png", "malignant (14).png"} & held_out) >= 1
    assert not packed & held_out
    rows = [line.split("\t") for line in (tmp_path / "out/held_out.tsv").read_text().splitlines()[1:]]
    assert held_out & {Path(row[0]).name for row in rows}
    assert f"{len(rows)} images left out of this corpus" in report


def test_a_task_without_a_folder_is_asked_for_one(tmp_path):
    root = make_images(tmp_path / "in", 2)
    with pytest.raises(UserError, match=r"--exclude_task busi: .* e.g. --exclude_task busi=DIR"):
        pack_folder(root, tmp_path / "out", exclude_task=["busi"])


def test_duplicates_are_listed_and_dropped_on_request(tmp_path, ultrasound_data):
    options = {"include": ["normal (*"], "exclude": ["*_mask*"]}
    report = pack_folder(ultrasound_data / "busi", tmp_path / "kept", options=options)
    rows = [line.split("\t") for line in (tmp_path / "kept/duplicates.tsv").read_text().splitlines()]
    assert rows[0] == ["one", "other", "bits_apart"]
    assert f"alike      {len(rows) - 1} pairs" in report
    pack_folder(ultrasound_data / "busi", tmp_path / "dropped", options=options, drop_duplicates=True)
    names = {record["name"] for record in records(tmp_path / "dropped")}
    pairs = [tuple(name.split("/", 1)[1] for name in row[:2]) for row in rows[1:]]
    assert pairs
    assert not any(first in names and second in names for first, second in pairs)
    assert len(names) < Manifest.load(tmp_path / "kept").num_samples == 133


def test_a_weight_for_nothing_is_refused(tmp_path):
    root = make_images(tmp_path / "in", 2)
    with pytest.raises(UserError, match="weights: 'lungs' is neither an anatomy nor a source"):
        pack_folder(root, tmp_path / "out", weights={"lungs": 2.0})


def test_a_blank_frame_in_every_clip_ties_no_patients_together(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for clip in range(40):
        frames = [Image.new("L", (64, 64), 40)]
        draw = np.random.default_rng(clip)
        frames += [Image.fromarray(draw.integers(0, 256, (64, 64), dtype=np.uint8)) for _ in range(2)]
        frames[0].save(root / f"{clip:02d}.gif", save_all=True, append_images=frames[1:], duration=1000)
    pack_folder(root, tmp_path / "out", "lung", splits={"train": 0.7, "val": 0.3}, drop_duplicates=True)
    clips = {split: {r["video"] for r in records(tmp_path / "out" / split)} for split in ("train", "val")}
    assert not clips["train"] & clips["val"]
    assert 4 <= len(clips["val"]) <= 20
    assert sum(len(records(tmp_path / "out" / split)) for split in clips) == 120


def test_a_split_without_an_image_is_refused(tmp_path):
    root = make_images(tmp_path / "in", 3)
    with pytest.raises(UserError, match="split 'val': gets no image"):
        pack_folder(root, tmp_path / "out", splits={"train": 0.999, "val": 0.001})


def test_the_order_of_splits_in_a_spec_does_not_matter(tmp_path):
    root = make_images(tmp_path / "in", 30)
    for name, splits in (("a", {"train": 0.6, "val": 0.4}), ("b", {"val": 0.4, "train": 0.6})):
        pack_folder(root, tmp_path / name, splits=splits, weights={"breast": 2.0})
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")
    names = [record["name"] for record in records(tmp_path / "a/val")]
    assert len(set(names)) == len(names)  # `train` is weighted, not the first that is named


def test_a_specs_weight_and_splits_are_its_own(tmp_path):
    for name, more in (("one", "weight: 3.0\nsplits: {train: 1.0}"), ("two", "splits: {train: 0.5, val: 0.5}")):
        make_images(tmp_path / name, 20, first=20 * (name == "two"))
        (tmp_path / f"{name}.yaml").write_text(f"source: folder\nfolder: {name}\nanatomy: lung\n{more}\n")
    pack_sources(tmp_path / "out", [tmp_path / "one.yaml", tmp_path / "two.yaml"], root=tmp_path, processes=1)
    train, val = (Manifest.load(tmp_path / "out" / split).sources for split in ("train", "val"))
    assert train["one"] == 60
    assert set(val) == {"two"}
    assert train["two"] + val["two"] == 20
    assert 4 <= val["two"] <= 16


def test_weights_need_a_split_to_train_on(tmp_path):
    root = make_images(tmp_path / "in", 30)
    with pytest.raises(UserError, match="weights: apply to the split 'train'"):
        pack_folder(root, tmp_path / "out", splits={"a": 0.5, "b": 0.5}, weights={"breast": 2.0})


@pytest.mark.parametrize("splits", [{"train": float("nan"), "val": float("nan")}, {"train": 1.5, "val": -0.5}])
def test_splits_that_are_no_shares_are_refused(tmp_path, splits):
    root = make_images(tmp_path / "in", 2)
    with pytest.raises(UserError, match="shares must be above 0 and add up to 1"):
        pack_folder(root, tmp_path / "out", splits=splits)


def test_a_held_out_image_that_cannot_be_read_stops_packing(tmp_path):
    root = make_images(tmp_path / "in", 30)
    held_out = make_images(tmp_path / "held", 30)
    (held_out / "good00.png").write_bytes((held_out / "good00.png").read_bytes()[:100])
    with pytest.raises(UserError, match=r"^--exclude_task t: 1 of 30 files .* more than --max_bad_share 0:"):
        pack_folder(root, tmp_path / "out", exclude_task=[f"t={held_out}"])


def test_held_out_folders_are_told_by_their_images_not_by_their_names(tmp_path):
    root = make_images(tmp_path / "a/images", 5)
    other = make_images(tmp_path / "b/images", 5, first=50)
    for index in range(5):  # the same names, other pictures
        (other / f"good{50 + index}.png").rename(other / f"good{index:02d}.png")
    report = pack_folder(root, tmp_path / "out", exclude_task=[f"t={other}"])
    assert report.startswith("packed 5 images from 5 files")
    assert "held out   0 images" in report


def test_an_image_like_a_held_out_one_takes_its_clip_along(tmp_path, write_clip):
    root = tmp_path / "in"
    root.mkdir()
    for number in range(2):
        draw = np.random.default_rng(number)
        frames = [Image.fromarray(draw.integers(0, 256, (64, 64), dtype=np.uint8)) for _ in range(3)]
        frames[0].save(root / f"{number}.gif", save_all=True, append_images=frames[1:], duration=1000)
        if number == 0:
            (tmp_path / "held").mkdir()
            frames[1].save(tmp_path / "held/one.png")
    pack_folder(root, tmp_path / "out", "lung", exclude_task=[f"t={tmp_path / 'held'}"])
    assert {record["video"] for record in records(tmp_path / "out")} == {"1.gif"}


@pytest.mark.parametrize(("task", "number"), [("echonet", {"TEST"}), ("gbcu", {"test"})])
def test_what_is_held_out_is_what_results_are_reported_on(task, number):
    source, options = HELD_OUT[task]
    (value,) = options.values()
    assert {part.upper() for part in ([value] if isinstance(value, str) else value)} == {"TEST"}
    assert set(options) <= {field.name for field in dataclasses.fields(source_class(source))}
