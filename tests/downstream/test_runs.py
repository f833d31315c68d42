import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_set import words, write_set
from PIL import Image
from pyarrow import parquet

from arl_lightning.downstream import command, experiment
from arl_lightning.downstream.command import parse
from arl_lightning.downstream.experiment import run_recipe
from arl_lightning.errors import UserError
from arl_lightning.evaluation.metrics import auroc


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "NUM_RESAMPLES", 50)
        yield


def run(protocol, arguments, said=None):
    recipe = parse(protocol, arguments)
    run_recipe(protocol, command.PROTOCOLS[protocol], recipe, (said if said is not None else []).append)
    return recipe.out


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def finetuned(table, tmp_path_factory):
    return run("finetune", words(table, tmp_path_factory.mktemp("run") / "finetune"))


def test_a_run_leaves_numbers_predictions_figures_curves_and_weights(finetuned):
    found = {str(path.relative_to(finetuned)) for path in finetuned.rglob("*") if path.is_file()}
    assert {"results.json", "predictions.parquet", "recipe.yaml", "checkpoints/best.ckpt"} <= found
    assert {f"figures/{name}.png" for name in ("roc", "precision_recall", "reliability", "confusion")} <= found
    assert any("tfevents" in name for name in found)
    assert not [name for name in found if name.endswith(".tmp")]


def test_results_say_what_was_run_on_what(finetuned):
    results = results_of(finetuned)
    assert (results["task"], results["protocol"], results["seed"]) == ("custom", "finetune", 0)
    assert results["n"] == {"train": 28, "val": 8, "test": 12}
    assert results["checkpoint"] == {"spec": "none", "sha256": None}
    assert len(results["split_hash"]) == 16
    assert results["recipe"]["optimization"]["epochs"] == 2
    assert {"torch", "lightning", "timm", "arl_lightning"} <= results["versions"].keys()
    assert results["num_groups"] == 6  # patients of two images each
    assert results["grouped_by"] == "patient"
    assert sum(map(sum, results["confusion"]["argmax"])) == 12


def test_the_metrics_are_those_of_the_written_predictions(finetuned):
    rows = parquet.read_table(finetuned / "predictions.parquet").to_pylist()
    test = [row for row in rows if row["part"] == "test"]
    assert len(test) == 12
    assert {row["patient"] for row in test}.isdisjoint({row["patient"] for row in rows if row["part"] == "val"})
    value = auroc(np.array([row["label"] == "bright" for row in test]), np.array([row["prob_bright"] for row in test]))
    assert results_of(finetuned)["metrics"]["auroc"]["value"] == pytest.approx(value)


def test_the_checkpoint_holds_plain_values_that_rebuild_the_run(finetuned):
    checkpoint = torch.load(finetuned / "checkpoints/best.ckpt", weights_only=True)
    held = checkpoint["arl_downstream"]
    assert (held["classes"], held["positive"], held["anatomy"]) == (["bright", "dark"], "bright", "other")
    assert held["encoder"]["name"] == "avit_tiny_patch16_224"


def test_a_run_repeats_under_its_seed(table, finetuned, tmp_path):
    again = run("finetune", words(table, tmp_path / "again"))
    assert results_of(again)["metrics"] == results_of(finetuned)["metrics"]
    other = run("finetune", words(table, tmp_path / "other", "--seeds", "1"))
    assert results_of(other)["split_hash"] == results_of(finetuned)["split_hash"]
    assert parquet.read_table(again / "predictions.parquet") == parquet.read_table(finetuned / "predictions.parquet")
    assert parquet.read_table(other / "predictions.parquet") != parquet.read_table(finetuned / "predictions.parquet")


def test_a_finished_run_is_not_overwritten_unless_asked_for(table, finetuned):
    with pytest.raises(UserError, match="holds a finished run; choose another --out, or replace it with --overwrite"):
        run("finetune", words(table, finetuned))


@pytest.mark.parametrize("augmented", ["true", "false"])
def test_a_linear_probe_leaves_the_encoder_as_it_was_and_tells_bright_from_dark(table, tmp_path, augmented):
    out = run("probe", words(table, tmp_path / "probe", "--augment.enabled", augmented, "--optimization.epochs", "30"))
    torch.manual_seed(0)
    import lightning.pytorch as pl

    from arl_lightning.downstream.encoders import rebuild

    checkpoint = torch.load(out / "checkpoints/best.ckpt", weights_only=True)
    pl.seed_everything(0, verbose=False)
    fresh = rebuild(checkpoint["arl_downstream"]["encoder"])
    encoder = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("backbone.")}
    assert all(torch.equal(value, encoder[f"backbone.{name}"]) for name, value in fresh.state_dict().items())
    assert results_of(out)["metrics"]["auroc"]["value"] > 0.95


def test_neighbours_tell_bright_from_dark(table, tmp_path):
    out = run("knn", words(table, tmp_path / "knn", "--neighbours.k", "5"))
    assert results_of(out)["metrics"]["accuracy"]["value"] >= 10 / 12
    assert results_of(out)["extra"]["k"] == 5


@pytest.mark.parametrize("more", [["--optimization.optimizer", "lbfgs", "--augment.enabled", "false"], []])
def test_pixels_are_a_baseline_without_a_network(table, tmp_path, more):
    out = run("probe", words(table, tmp_path / "pixels", "--checkpoint", "pixels", *more))
    assert results_of(out)["extra"]["model"] == "pixels"
    assert results_of(out)["metrics"]["auroc"]["value"] > 0.95


def test_segmentation_is_scored_at_the_files_size_and_drawn(table, tmp_path):
    more = ["--options.structures", "square", "--decoder.channels", "16", "--optimization.epochs", "1"]
    out = run("segment", words(table, tmp_path / "segment", *more))
    results = results_of(out)
    assert set(results["metrics"]) == {"dice", "iou", "hd95"}
    assert results["num_groups"] == 6
    assert parquet.read_table(out / "predictions.parquet").num_rows == 12
    assert Image.open(out / "figures/overlays.png").size > (300, 300)


def test_folds_test_every_image_once_and_a_stopped_run_goes_on(table, tmp_path):
    arguments = words(table, tmp_path / "folds", "--folds", "3")
    out = run("knn", arguments)
    kept = (out / "fold_0/results.json").stat().st_mtime_ns
    (out / "summary.json").unlink()
    (out / "fold_2/results.json").unlink()
    said: list[str] = []
    run("knn", arguments, said)
    assert (out / "fold_0/results.json").stat().st_mtime_ns == kept
    keys = [
        row["key"]
        for fold in range(3)
        for row in parquet.read_table(out / f"fold_{fold}/predictions.parquet").to_pylist()
        if row["part"] == "test"
    ]
    assert len(keys) == len(set(keys)) == 48
    assert "3 folds pooled" in said[-1]


def test_shares_of_the_labels_and_seeds_become_a_curve(table, tmp_path):
    out = run("knn", words(table, tmp_path / "few", "--fraction", "0.25", "1", "--seeds", "0", "1"))
    assert (out / "few_labels.png").exists()
    sizes = {share: results_of(out / f"share_{share}/seed_0")["n"]["train"] for share in ("0.25", "1")}
    assert sizes == {"0.25": 8, "1": 28}  # whole patients
    assert {share["fraction"] for share in json.loads((out / "summary.json").read_text())["shares"]} == {0.25, 1.0}


def test_an_unfinished_run_of_another_recipe_is_not_mixed_with_this_one(table, tmp_path):
    out = run("knn", words(table, tmp_path / "knn", "--seeds", "0", "1"))
    (out / "summary.json").unlink()
    with pytest.raises(UserError, match=r"recipe.yaml: of another run; choose another --out"):
        run("knn", words(table, tmp_path / "knn", "--seeds", "0", "2"))


def test_a_corrupt_image_stops_a_run_by_name_and_may_be_skipped(tmp_path):
    table = write_set(tmp_path / "set")
    (tmp_path / "set/images/05.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UserError, match=r"05.png: .*--skip_damaged leaves them out"):
        run("knn", words(table, tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()
    out = run("knn", words(table, tmp_path / "skipped", "--skip_damaged"))
    assert sum(results_of(out)["n"].values()) == 47


def test_what_a_protocol_cannot_learn_from_is_refused(table, tmp_path):
    with pytest.raises(UserError, match="task custom: has no masks to segment"):
        run("segment", words(table, tmp_path / "x"))
    with pytest.raises(UserError, match="checkpoint pixels: has no weights to train"):
        run("finetune", words(table, tmp_path / "x", "--checkpoint", "pixels"))
    with pytest.raises(UserError, match="anatomy 'spleen'"):
        run("knn", words(table, tmp_path / "x", "--anatomy", "spleen"))


def test_overwriting_leaves_nothing_of_the_former_run(table, tmp_path):
    out = run("knn", words(table, tmp_path / "knn"))
    run("knn", words(table, out, "--seeds", "0", "1", "2", "--overwrite"))
    assert not (out / "results.json").exists()
    run("knn", words(table, out, "--seeds", "3", "4", "--overwrite"))
    assert sorted(path.name for path in out.iterdir()) == ["recipe.yaml", "seed_3", "seed_4", "summary.json"]
    assert json.loads((out / "summary.json").read_text())["shares"][0]["seeds"] == [3, 4]


def test_a_training_of_other_weights_is_not_kept_for_this_run(table, tmp_path):
    out = run("knn", words(table, tmp_path / "knn", "--seeds", "0", "1"))
    (out / "summary.json").unlink()
    results = results_of(out / "seed_0")
    results["checkpoint"]["sha256"] = "0" * 64
    (out / "seed_0/results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"seed_0/results.json: was made with another checkpoint"):
        run("knn", words(table, out, "--seeds", "0", "1"))


@pytest.mark.parametrize(
    ("protocol", "more", "line"),
    [
        ("finetune", ["--optimization.optimizer", "lbfgs"], "optimization.optimizer lbfgs: is for probe"),
        ("probe", ["--optimization.optimizer", "lbfgs"], "with --augment.enabled false alone"),
        ("knn", ["--optimization.class_weights", "balanced"], "optimization.class_weights: knn has none"),
    ],
)
def test_keys_that_a_protocol_would_not_heed_are_refused(table, tmp_path, protocol, more, line):
    with pytest.raises(UserError, match=line):
        run(protocol, words(table, tmp_path / "x", *more))
    assert not (tmp_path / "x").exists()


def test_validation_cases_of_one_class_choose_by_the_loss(table, tmp_path):
    rows = table.read_text().splitlines()
    parts = ["split", *(["val"] * 2 + ["train"] * 38 + ["test"] * 8)]
    own = tmp_path / "table.csv"
    own.write_text("\n".join(f"{row},{part}" for row, part in zip(rows, parts, strict=True)) + "\n")
    arguments = words(own, tmp_path / "out", "--root", str(table.parent), "--optimization.patience", "2")
    results = results_of(run("finetune", arguments))
    assert (results["extra"]["monitor"], results["extra"]["num_epochs"]) == ("loss", 2)


def test_a_diverging_run_ends_with_the_rate_to_lower(table, tmp_path):
    with pytest.raises(UserError, match=r"epoch \d: the loss is not finite; lower optimization.base_lr"):
        run("finetune", words(table, tmp_path / "x", "--optimization.base_lr", "1e30", "--optimization.epochs", "3"))
