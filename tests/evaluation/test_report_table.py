import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from binormal import binormal, several_classes
from made_runs import leave

from arl_lightning.arguments import call
from arl_lightning.downstream import experiment
from arl_lightning.downstream.command import finetune
from arl_lightning.errors import UserError
from arl_lightning.evaluation.overlap_table import OverlapTable
from arl_lightning.evaluation.predictions import Predictions
from arl_lightning.evaluation.report import gathered, report
from arl_lightning.evaluation.schema import Checkpoint

SCORES = {0: (0.9, 0.8, 0.4, 0.3), 1: (0.9, 0.2, 0.4, 0.3)}  # of two positive, then two negative images


def typed(words: list[str]) -> str:
    return call(report, "arl report", words)


def four_images(scores, fold: int | None = None, prefix: str = "") -> Predictions:
    """Two malignant and two benign images: AUROC is the share of the four pairs in the right order."""
    positive = np.array(scores)
    return Predictions(
        [f"{prefix}{place}.png" for place in range(4)], [None] * 4, [None] * 4, np.array([1, 1, 0, 0]),
        np.stack([1 - positive, positive], axis=1), ("benign", "malignant"), 1, "test",
        None if fold is None else np.full(4, fold),
    )  # fmt: skip


def recipe(**changes):
    return {"seeds": [0], "fraction": [1.0], "folds": None, "optimization": {"base_lr": 1e-3}, **changes}


def leave_seeds(folder: Path, **changes) -> None:
    """Leave a run for each seed, as an array of jobs does: AUROC 1 and 0.5."""
    for seed, scores in SCORES.items():
        leave(folder / f"seed_{seed}", [four_images(scores)], seed=seed, recipe=recipe(seeds=[seed]), **changes)


def metrics_of(row):
    return row.share["metrics"]


def test_seeds_of_an_array_are_one_row_with_their_mean_and_deviation(tmp_path):
    leave_seeds(tmp_path)
    (row,) = gathered([tmp_path], 20).rows
    # Seed 0 orders all 4 pairs, seed 1 two of 4: mean 0.75, deviation 0.5 / sqrt 2.
    assert metrics_of(row)["auroc"]["mean"] == 0.75
    assert metrics_of(row)["auroc"]["std"] == pytest.approx(0.5 / np.sqrt(2))
    assert metrics_of(row)["accuracy"]["mean"] == 0.875  # 4 and 3 of 4 at probability 0.5
    assert (row.share["seeds"], row.num_trainings, row.share["num_images"]) == ([0, 1], 2, 4)
    assert row.folder == tmp_path


def test_folds_are_pooled_before_they_are_scored(tmp_path):
    folds = {"seeds": [0], "fraction": [1.0], "folds": 2}
    leave(tmp_path / "fold_0", [four_images((0.9, 0.8, 0.7, 0.6), 0, "a")], seed=0, fold=0, recipe=folds)
    leave(tmp_path / "fold_1", [four_images((0.4, 0.3, 0.2, 0.1), 1, "b")], seed=0, fold=1, recipe=folds)
    (row,) = gathered([tmp_path], 20).rows
    # Each fold orders all its pairs; of the 16 pairs of both, the 4 of fold 1's positives and fold 0's negatives fail.
    assert metrics_of(row)["auroc"]["mean"] == 0.75
    assert metrics_of(row)["auroc"]["over_folds"]["mean"] == 1.0
    assert (row.share["num_folds"], row.share["num_images"]) == (2, 8)


def test_a_seed_that_lacks_a_fold_is_named_and_left_out(tmp_path):
    for seed, fold in ((0, 0), (0, 1), (1, 0)):
        own = [four_images(SCORES[0], fold, str(fold))]
        folder = tmp_path / f"seed_{seed}/fold_{fold}"
        leave(folder, own, seed=seed, fold=fold, recipe=recipe(seeds=[0, 1], folds=2))
    found = gathered([tmp_path], 20)
    assert [row.share["seeds"] for row in found.rows] == [[0]]
    assert found.faults == (f"{tmp_path}: seed 1 left out, folds 0 of 2 are there; finish it",)


def test_other_test_parts_are_shown_apart_and_said_to_be(tmp_path):
    leave_seeds(tmp_path / "a", split_hash="aaaaaaaaaaaaaaaa")
    leave_seeds(tmp_path / "b", split_hash="bbbbbbbbbbbbbbbb")
    found = gathered([tmp_path], 20)
    assert [row.setting.split_hash[0] for row in found.rows] == ["a", "b"]
    said = "busi: tested on 2 different test parts (aaaaaaaa, bbbbbbbb): compare rows of one part only"
    assert said in found.notes
    header, cells = found.table()
    assert [row[header.index("test part")] for row in cells] == ["a" * 8, "b" * 8]


def test_shares_weights_protocols_and_keys_make_rows(tmp_path):
    own, sha = [four_images(SCORES[0])], "f" * 64
    leave(tmp_path / "plain", own, seed=0, recipe=recipe())
    leave(tmp_path / "few", own, seed=0, recipe=recipe(fraction=[0.05]), fraction=0.05)
    leave(tmp_path / "rate", own, seed=0, recipe=recipe(optimization={"base_lr": 0.01}))
    leave(tmp_path / "knn", own, seed=0, recipe=recipe(), protocol="knn")
    leave(tmp_path / "from", own, seed=0, recipe=recipe(), checkpoint=Checkpoint("runs/p/checkpoints/last.ckpt", sha))
    found = gathered([tmp_path], 20)
    header, cells = found.table()
    columns = [header.index(name) for name in ("protocol", "from", "labels", "setting")]
    assert [tuple(row[column] for column in columns) for row in cells] == [
        ("knn", "none", "", ""),
        ("probe", ".../checkpoints/last.ckpt", "", ""),
        ("probe", "none", "5%", ""),
        ("probe", "none", "", ""),
        ("probe", "none", "", "optimization.base_lr 0.01"),
    ]
    assert "busi, probe: optimization.base_lr 0.001, unless the row says otherwise" in found.notes


def test_where_a_run_lay_makes_no_row(tmp_path):
    for seed, root in enumerate(("/scratch/1/busi", "/scratch/2/busi")):
        own, place = [four_images(SCORES[seed])], Checkpoint(f"/scratch/{seed}/last.ckpt", "f" * 64)
        leave(tmp_path / str(seed), own, seed=seed, recipe=recipe(root=root, checkpoint=place.spec), checkpoint=place)
    assert [row.share["seeds"] for row in gathered([tmp_path], 20).rows] == [[0, 1]]


def test_the_same_seed_in_two_runs_is_two_rows(tmp_path):
    for name in ("first", "again"):
        leave_seeds(tmp_path / name)
    found = gathered([tmp_path, tmp_path / "first"], 20)  # a folder below another counts once
    assert [row.said for row in found.rows] == [f"folder {tmp_path / name}" for name in ("again", "first")]
    assert [row.num_trainings for row in found.rows] == [2, 2]


def test_a_stale_training_beside_its_seeds_is_left_out(tmp_path):
    leave(tmp_path, [four_images(SCORES[1])], seed=0, recipe=recipe())
    leave_seeds(tmp_path)
    found = gathered([tmp_path], 20)
    assert len(found.rows) == 1
    (fault,) = found.faults
    assert fault.startswith(f"{tmp_path / 'seed_0/results.json'}: left out, {tmp_path} is the same run's same seed")


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path):
    leave_seeds(tmp_path)
    for name in ("cut", "strange", "alone", "broken"):
        leave(tmp_path / name, [four_images(SCORES[0])], seed=7)
    (tmp_path / "cut/results.json").write_text('{"format": 1,')
    (tmp_path / "strange/results.json").write_text("[]")
    (tmp_path / "alone/predictions.parquet").unlink()
    (tmp_path / "broken/predictions.parquet").write_bytes(b"PAR1")
    found = gathered([tmp_path], 20)
    assert [row.share["seeds"] for row in found.rows] == [[0, 1]]
    assert found.faults == (
        f"{tmp_path}/alone/predictions.parquet: missing; name a folder that a finished run left",
        f"{tmp_path}/broken/predictions.parquet: is not a table of predictions of ours; run it again",
        f"{tmp_path}/cut/results.json: is not readable as JSON; run it again",
        f"{tmp_path}/strange/results.json: is not a run's results; name a folder that a finished run left",
    )


ODD = [
    *(
        ("fraction", None),
        ("fraction", "x"),
        ("split_hash", {}),
        ("split_hash", None),
        ("n", None),
        ("n", {"train": "x"}),
    ),
    *(("seed", "x"), ("seed", {}), ("fold", "x"), ("metrics", None), ("task", 1), ("kind", "x"), ("protocol", None)),
    *(("checkpoint", None), ("checkpoint", {}), ("checkpoint", {"spec": "a", "sha256": 1}), ("recipe", [])),
    ("recipe", {"folds": "x"}),
]


@pytest.mark.parametrize(("key", "value"), ODD)
def test_an_odd_value_leaves_out_its_training_alone(tmp_path, key, value):
    leave_seeds(tmp_path)
    path = leave(tmp_path / "odd", [four_images(SCORES[0])], seed=7, recipe=recipe()) / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    found = gathered([tmp_path], 20)
    assert [row.share["seeds"] for row in found.rows] == [[0, 1]]
    assert found.faults == (f"{path}: {key} {json.dumps(value)} is not what a run leaves; run it again",)


def test_a_row_of_several_folders_lies_in_what_they_share(tmp_path, monkeypatch):
    leave_seeds(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "a/seed_1").rename(tmp_path / "b/seed_1")
    monkeypatch.chdir(tmp_path)
    for given, folder in (
        (["a", "b"], "."),
        (["../" + tmp_path.name], "."),
        (["a", str(tmp_path / "b")], str(tmp_path)),
        ([str(tmp_path)], str(tmp_path)),
    ):
        assert [str(row.folder) for row in gathered(list(map(Path, given)), 20).rows] == [folder]
    monkeypatch.chdir(tmp_path / "a")
    assert [str(row.folder) for row in gathered([Path("seed_0"), Path("../b")], 20).rows] == [".."]


def test_nothing_left_is_refused_with_all_reasons(tmp_path):
    leave(tmp_path / "cut", [four_images(SCORES[0])])
    (tmp_path / "cut/results.json").write_text("")
    with pytest.raises(UserError, match=r"nothing can be used: .*cut/results.json: is not readable as JSON"):
        typed([str(tmp_path)])


def test_a_missing_or_empty_folder_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/no: no such folder"):
        typed([str(tmp_path / "no")])
    with pytest.raises(UserError, match=f"{tmp_path}: no results.json in it or below it"):
        typed([str(tmp_path)])
    leave_seeds(tmp_path)
    with pytest.raises(UserError, match=r"--out .*table.pdf: must end with .csv or .json or .md"):
        typed([str(tmp_path), "-o", str(tmp_path / "table.pdf")])


def test_an_unfinished_run_is_named_and_a_pretraining_is_not(tmp_path):
    leave_seeds(tmp_path / "run")
    (tmp_path / "run/recipe.yaml").write_text("protocol: probe\nseeds: [0, 1, 2]\nfraction: [1.0]\nfolds: null\n")
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/recipe.yaml").write_text("run: {folder: runs/pretrain}\n")
    found = gathered([tmp_path], 20)
    assert found.faults == (f"{tmp_path / 'run'}: 2 of 3 trainings finished; the same command goes on",)


def test_tasks_of_every_kind_share_one_table(tmp_path):
    table = OverlapTable(["a", "b"], [None] * 2, ["lesion"] * 2, np.array([0.5, 0.7]), np.ones(2), np.full(2, 3.0))
    for seed, gain in ((0, 0.0), (1, 0.1)):
        leave(tmp_path / f"masks/seed_{seed}", replace(table, dice=table.dice + gain), seed=seed, protocol="segment")
    leave(tmp_path / "views", [several_classes(["2CH", "3CH", "4CH", "5CH"])], seed=0, task="echo_views")
    leave(tmp_path / "two", [binormal()], seed=0)
    header, cells = gathered([tmp_path], 20).table()
    assert header == [
        *("task", "protocol", "from", "seeds", "train", "test", "accuracy", "AUROC", "sensitivity", "specificity"),
        *("top-1", "top-3", "macro F1", "Dice", "mIoU", "HD95 (px)"),
    ]
    by_task = {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in cells}
    assert by_task["busi", "segment"]["Dice"].startswith("0.650 ± 0.071 [")  # 0.6 and 0.7
    assert by_task["busi", "segment"]["HD95 (px)"].startswith("3.0 ± 0.0")
    assert by_task["busi", "segment"]["AUROC"] == by_task["busi", "probe"]["top-1"] == ""
    assert by_task["echo_views", "probe"]["top-3"]
    assert by_task["echo_views", "probe"]["accuracy"] == ""


def test_the_files_hold_what_is_shown(tmp_path):
    leave_seeds(tmp_path / "runs")
    said = {}
    for ending in ("md", "csv", "json"):
        path = tmp_path / f"new/table.{ending}"
        said[ending] = typed([str(tmp_path / "runs"), "-o", str(path), "--num_resamples", "20"])
        assert said[ending].endswith(f"written to {path}")
    assert said["md"].startswith((tmp_path / "new/table.md").read_text().rstrip())
    assert "| busi | probe    | none | 2     | 400   | 4    | 0.875 ± 0.177" in said["md"]
    with (tmp_path / "new/table.csv").open() as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert (rows["auroc"]["mean"], rows["auroc"]["num_seeds"], rows["auroc"]["n"]) == ("0.75", "2", "4")
    content = json.loads((tmp_path / "new/table.json").read_text())
    assert content["rows"][0]["metrics"]["auroc"]["mean"] == 0.75
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["table.csv", "table.json", "table.md"]


def test_two_checkpoints_of_one_name_are_told_apart(tmp_path):
    for letter in "ab":
        own = Checkpoint(f"/{letter}/run/checkpoints/last.ckpt", letter * 64)
        leave(tmp_path / letter, [four_images(SCORES[0])], seed=0, recipe=recipe(), checkpoint=own)
    header, cells = gathered([tmp_path], 20).table()
    names = [row[header.index("from")] for row in cells]
    assert names == [f".../checkpoints/last.ckpt ({letter * 8})" for letter in "ab"]


def test_what_finetune_leaves_for_two_seeds_becomes_one_row(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "NUM_RESAMPLES", 20)
    for seed in (0, 1):
        finetune([
            "busi", "--root", "phantom", "--out", str(tmp_path / f"busi/seed_{seed}"), "--seeds", str(seed),
            "--encoder.name", "avit_tiny_patch16_224", "--loading.image_size", "32", "--loading.num_workers", "0",
            "--optimization.epochs", "1", "--optimization.warmup_epochs", "0", "--devices.accelerator", "cpu",
        ])  # fmt: skip
    found = gathered([tmp_path], 20)
    (row,) = found.rows
    values = [
        json.loads((tmp_path / f"busi/seed_{seed}/results.json").read_text())["metrics"]["auroc"]["value"]
        for seed in (0, 1)
    ]
    assert metrics_of(row)["auroc"]["mean"] == pytest.approx(sum(values) / 2)
    assert (row.share["seeds"], found.faults) == ([0, 1], ())
    assert "busi: made-up images; no score on them means anything" in found.notes
