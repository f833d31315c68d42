"""`arl predict` says of files what the run would say in its test, and goes on where one is damaged."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from trained_runs import AVIT, make_classifier, make_segmenter, write_results

from arl_lightning.cli import MISTAKE, main
from arl_lightning.data.tasks.masks import read_mask_file
from arl_lightning.data.tasks.phantoms import write_phantom_set
from arl_lightning.evaluation.tables import read_parquet

Speckle = Callable[..., np.ndarray]
SHORT = ["--checkpoint", "none", "--encoder.name", "avit_tiny_patch8_224", "--loading.image_size", "32"]
PROTOCOLS = {
    "finetune": [*SHORT, "--optimization.epochs", "1", "--loading.fit", "pad"],
    "knn": [*SHORT, "--neighbours.k", "3", "--loading.fit", "crop"],
    "probe": [
        "--checkpoint",
        "pixels",
        "--loading.image_size",
        "32",
        "--optimization.optimizer",
        "lbfgs",
        "--augment.enabled",
        "false",
    ],
}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up BUSI."""
    return write_phantom_set("busi", tmp_path_factory.mktemp("sets") / "busi", num_patients=16)


@pytest.fixture
def images(tmp_path: Path, speckle: Speckle) -> Path:
    """Three images in a folder and one below it."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    for place, name in enumerate(["b.png", "a.png", "deep/a.png"]):
        Image.fromarray(speckle(60, 80, seed=place)).save(folder / name)
    return folder


def predicted(*words: object, out: Path) -> list[dict[str, str]]:
    """Run the command, and return its table's rows."""
    assert main(["predict", *map(str, words), "--out", str(out), "--device", "cpu"]) == 0
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_predictions_of_test_images_are_those_of_the_run(protocol: str, phantoms: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [protocol, "busi", "--root", str(phantoms), *PROTOCOLS[protocol], "--options.partial", "true"]
    assert main([*words, "--out", str(run), "--devices.accelerator", "cpu"]) == 0
    test = read_parquet(run / "predictions.parquet")
    files = sorted(path for path in phantoms.rglob("*.png") if "_mask" not in path.name)
    of_key = {key: [path for path in files if path.stem == Path(key).stem] for key in test.keys}
    assert len(test) > 3
    assert all(len(found) == 1 for found in of_key.values())
    asked = [of_key[key][0] for key in test.keys]
    rows = predicted(*asked, "--checkpoint", run, "--batch_size", 5, out=tmp_path / "table.csv")
    found = np.array([[float(row["prob_benign"]), float(row["prob_malignant"])] for row in rows])
    np.testing.assert_allclose(found, test.probabilities, atol=1e-6)
    assert np.ptp(found[:, 0]) > 1e-3, "all alike would prove nothing"
    assert [row["file"] for row in rows] == [str(path) for path in asked]


def test_a_folder_is_read_whole_in_order_and_goes_on_past_damage(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_classifier(tmp_path / "run", threshold=0.5)
    (images / "broken.png").write_bytes((images / "a.png").read_bytes()[:300])
    Image.new("L", (20, 20)).save(images / "small.png")
    (images / "notes.txt").write_text("no image")
    (images / ".hidden.png").write_bytes(b"")
    rows = predicted(images, "--checkpoint", tmp_path / "run", out=tmp_path / "table.csv")
    assert [row["file"].removeprefix(f"{images}/") for row in rows] == [
        *("a.png", "b.png", "broken.png", "deep/a.png", "small.png")
    ]
    assert [bool(row["problem"]) for row in rows] == [False, False, True, False, True]
    assert [row["prediction"] == "" for row in rows] == [False, False, True, False, True]
    said = capsys.readouterr()
    assert "small.png: 20x20 pixels; at least 32x32 are needed" in said.err
    assert "broken.png: " in said.err
    assert "3 images of 3 files, 2 files could not be read" in said.out
    for row in rows[:2]:
        total = float(row["prob_benign"]) + float(row["prob_malignant"])
        assert total == pytest.approx(1)
        assert row["prediction"] == ("malignant" if float(row["prob_malignant"]) >= 0.5 else "benign")


def test_the_table_on_the_screen_is_aligned(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_classifier(tmp_path / "run", threshold=0.0)
    assert main(["predict", str(images / "a.png"), str(images / "b.png"), "--checkpoint", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    head, first, second = said.out.splitlines()
    assert head.split() == ["file", "prediction", "prob_benign", "prob_malignant"]  # nothing for frame and problem
    assert first.index("malignant") == head.index("prediction") == second.index("malignant")
    assert "decision: malignant from 0.000 on (highest Youden index on 7 validation images)" in said.err


def test_nothing_readable_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_classifier(tmp_path / "run")
    (tmp_path / "a.png").write_bytes(b"")
    assert main(["predict", str(tmp_path / "a.png"), "--checkpoint", str(tmp_path / "run")]) == MISTAKE
    said = capsys.readouterr().err
    assert "a.png: empty file" in said
    assert "none of 1 file could be read" in said


def test_a_clip_is_the_mean_of_its_frames_and_decided_on_its_own(
    tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    make_classifier(tmp_path / "run")
    write_results(tmp_path / "run", 0.0, of_clips=1.1)
    clip = write_clip(tmp_path / "clip.mp4", num_frames=50, rate=25)
    rows = predicted(clip, "--checkpoint", tmp_path / "run", "--fps", 2, "--batch_size", 3, out=tmp_path / "t.csv")
    assert [row["frame"] for row in rows] == ["0", "13", "25", "38", "mean"]
    values = [float(row["prob_malignant"]) for row in rows]
    assert values[-1] == pytest.approx(np.mean(values[:-1]), abs=1e-12)
    assert [row["prediction"] for row in rows] == [*["malignant"] * 4, "benign"]


def test_a_cut_clip_keeps_the_frames_before_the_fault(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    make_classifier(tmp_path / "run")
    clip = write_clip(tmp_path / "clip.mp4", num_frames=50, noise=True)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    rows = predicted(clip, "--checkpoint", tmp_path / "run", out=tmp_path / "t.csv")
    assert rows[-1]["frame"] == "mean"
    assert rows[-1]["problem"]
    assert 1 < len(rows) < 8


def test_dicom_is_read_without_a_word_of_the_patient(
    tmp_path: Path, ultrasound_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_classifier(tmp_path / "run")
    folder = tmp_path / "archive"
    folder.mkdir()
    shutil.copy(ultrasound_data / "dicom" / "US1_UNCR.dcm", folder / "IM0")  # by its content
    shutil.copy(ultrasound_data / "dicom" / "examples_ybr_color.dcm", folder / "cine.dcm")
    (folder / "broken.dcm").write_bytes((folder / "IM0").read_bytes()[:5000])
    rows = predicted(folder, "--checkpoint", tmp_path / "run", out=tmp_path / "t.csv")
    said = "".join(capsys.readouterr()) + (tmp_path / "t.csv").read_text()
    assert [Path(row["file"]).name for row in rows] == ["IM0", "broken.dcm", *["cine.dcm"] * (len(rows) - 2)]
    assert rows[0]["frame"] == ""
    assert rows[1]["problem"] == "truncated"
    assert rows[-1]["frame"] == "mean"
    assert len(rows) > 4
    for path in (folder / "IM0", folder / "cine.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for value in (header.get("PatientName"), header.get("PatientID"), header.get("StudyInstanceUID")):
            assert not str(value or "") or str(value) not in said


def test_masks_have_the_images_size_and_the_tables_areas(images: Path, tmp_path: Path) -> None:
    make_segmenter(tmp_path / "run", structures=["lesion", "shadow"])
    folders = [word for name in ("masks", "overlays") for word in (f"--{name}", tmp_path / name)]
    rows = predicted(images, "--checkpoint", tmp_path / "run", *folders, out=tmp_path / "t.csv")
    assert list(rows[0]) == ["file", "frame", "area_lesion", "area_shadow", "problem"]
    for row, name in zip(rows, ["a.png", "b.png", "deep/a.png"], strict=True):
        mask = read_mask_file(tmp_path / "masks" / name, 2, (60, 80))  # as a task would read it again
        assert isinstance(mask, np.ndarray)
        areas = [int((mask == value).sum()) for value in (1, 2)]
        assert [float(row["area_lesion"]), float(row["area_shadow"])] == areas
        assert (tmp_path / "overlays" / name.replace(".png", "_overlay.png")).stat().st_size > 1000
    assert sum(float(row["area_lesion"]) + float(row["area_shadow"]) for row in rows) > 0


def test_pictures_of_attention_and_offsets_keep_the_folders_tree(images: Path, tmp_path: Path) -> None:
    make_classifier(tmp_path / "run", encoder=AVIT)
    Image.open(images / "b.png").save(images / "a.jpg")
    (images / "b.png").unlink()
    words = ["--attention", tmp_path / "looks", "--offsets", tmp_path / "looks", "--attention_from", "patches"]
    predicted(images, "--checkpoint", tmp_path / "run", *words, "--block", 3, out=tmp_path / "t.csv")
    names = sorted(str(path.relative_to(tmp_path / "looks")) for path in (tmp_path / "looks").rglob("*.png"))
    stems = ["a.jpg", "a.png", "deep/a"]  # a suffix stays where two files would have one name
    assert names == sorted(f"{stem}_{kind}.png" for stem in stems for kind in ("attention", "offsets"))


def test_the_anatomy_that_is_told_matters(images: Path, tmp_path: Path) -> None:
    network = make_classifier(tmp_path / "run", encoder=AVIT)
    state = network.backbone.network.blocks[0].sampling.offset_pointwise.weight.detach()
    assert not state.any(), "a fresh block hears no anatomy; the checkpoint below does"
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    draw = torch.Generator().manual_seed(0)
    for name, weight in checkpoint["state_dict"].items():
        if name.endswith("offset_pointwise.weight"):
            weight += torch.randn(weight.shape, generator=draw)
    torch.save(checkpoint, path)
    rows = [
        predicted(images / "a.png", "--checkpoint", tmp_path / "run", *words, out=tmp_path / "t.csv")[0]["prob_benign"]
        for words in ([], ["--anatomy", "breast"], ["--anatomy", "thyroid"])
    ]
    assert rows[0] == rows[1] != rows[2]


def test_mistakes_are_refused_in_one_line(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_classifier(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    image, run = images / "a.png", ["--checkpoint", tmp_path / "run"]
    for words, reason in (
        ([tmp_path / "no.png", *run], "no such file or folder"),
        ([tmp_path / "empty", *run], "holds no images, clips or DICOM objects"),
        ([image, "--checkpoint", tmp_path / "empty"], "has no checkpoints/best.ckpt"),
        ([image, *run, "--out", image], "must end in .csv"),
        ([image, *run, "--fps", "0"], "--fps 0: must be above 0"),
        ([image, *run, "--batch_size", "0"], "--batch_size 0: must be at least 1"),
        ([image, *run, "--masks", tmp_path / "m"], "--masks: the run classifies"),
        ([image, *run, "--offsets", tmp_path / "o"], "a run on pixels has no encoder"),
        ([image, *run, "--block", "1"], "--block: chooses what --attention or --offsets draws"),
        ([images, *run, "--attention", images / "deep"], "lies among the images; choose another folder"),
        ([image, *run, "--attention", images], "lies among the images; choose another folder"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert main(["predict", *map(str, words)]) == MISTAKE
        said = capsys.readouterr()
        assert reason in said.err
        assert said.out == ""
        assert sorted(tmp_path.rglob("*")) == before
