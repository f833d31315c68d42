import json
from dataclasses import replace

import numpy as np
import pytest
from binormal import binormal
from made_runs import leave

from arl_lightning.errors import UserError
from arl_lightning.evaluation.metrics import auroc
from arl_lightning.evaluation.overlap_table import OverlapTable
from arl_lightning.evaluation.predictions import concatenate
from arl_lightning.evaluation.results import evaluate
from arl_lightning.evaluation.runs import find_members
from arl_lightning.evaluation.summary import few_label_curve, summarize
from arl_lightning.evaluation.summary_report import show_summary, write_summary


def of(predictions) -> float:
    return auroc(predictions.labels == 1, predictions.positive_scores())


def test_seeds_have_a_mean_and_a_spread(tmp_path):
    seeds = [binormal(0.95, noise=1.0, noise_seed=seed, run_seed=seed) for seed in (5, 6, 7)]
    for each in seeds:
        leave(tmp_path / f"seed_{each.seed}", [each], seed=each.seed)
    found = summarize(find_members(tmp_path), ["auroc"], 300)["shares"][0]
    values, spread = [of(each) for each in seeds], found["metrics"]["auroc"]
    assert spread["mean"] == pytest.approx(np.mean(values))
    assert spread["std"] == pytest.approx(np.sqrt(np.sum((values - np.mean(values)) ** 2) / 2))
    assert (spread["min"], spread["max"]) == (min(values), max(values))
    assert spread["low"] < spread["mean"] < spread["high"]
    assert found["seeds"] == [5, 6, 7]
    assert spread["over_folds"] is None


def test_one_seed_has_its_own_interval_and_no_spread(tmp_path):
    validation = binormal(seed=1, part="val")
    leave(tmp_path, [validation, binormal()], seed=0)
    spread = summarize(find_members(tmp_path), ["accuracy"], 100)["shares"][0]["metrics"]["accuracy"]
    own = evaluate(binormal(), validation, ["accuracy"], 100)["metrics"]["accuracy"]
    assert (spread["mean"], spread["low"], spread["high"]) == (own["value"], own["low"], own["high"])
    assert spread["std"] is None


def test_folds_are_pooled_beside_their_mean(tmp_path):
    folds = [binormal(0.9, num_positive=10 + fold, num_negative=12, seed=fold) for fold in range(3)]
    for fold, each in enumerate(folds):
        leave(tmp_path / f"fold_{fold}", [each], seed=0, fold=fold)
    found = summarize(find_members(tmp_path), ["auroc"], 50)["shares"][0]
    assert found["num_folds"] == 3
    assert found["num_images"] == 69
    assert found["metrics"]["auroc"]["mean"] == pytest.approx(of(concatenate(folds)))
    singles = [of(each) for each in folds]
    over = found["metrics"]["auroc"]["over_folds"]
    assert (over["mean"], over["std"]) == pytest.approx((np.mean(singles), np.std(singles, ddof=1)))


def test_a_missing_fold_is_named(tmp_path):
    for fold in (0, 2):
        leave(tmp_path / f"fold_{fold}", [binormal(seed=fold)], seed=0, fold=fold)
    with pytest.raises(UserError, match=r"folds \[0, 2\] are not all there"):
        summarize(find_members(tmp_path))


def test_seeds_with_other_test_images_have_no_common_interval(tmp_path):
    for seed in (0, 1):
        leave(tmp_path / f"seed_{seed}", [binormal(seed=seed)], seed=seed)
    spread = summarize(find_members(tmp_path), ["auroc"], 20)["shares"][0]["metrics"]["auroc"]
    assert spread["mean"] is not None
    assert spread["low"] is None


@pytest.fixture
def few_labels(tmp_path):
    for share, noise in ((1.0, 0.1), (0.05, 3.0), (0.2, 1.0)):
        for seed in (0, 1):
            own = binormal(0.95, noise=noise, noise_seed=seed)
            leave(
                tmp_path / f"share_{share:g}/seed_{seed}",
                [own],
                seed=seed,
                fraction=share,
                n={"train": int(400 * share)},
            )
    return tmp_path


def test_the_curve_of_few_labels_rises_with_the_share(few_labels):
    curve = few_label_curve(summarize(find_members(few_labels), ["auroc"], 5), "auroc")
    assert curve["fraction"] == [0.05, 0.2, 1.0]
    assert curve["n_train"] == [20, 80, 400]
    assert curve["mean"] == sorted(curve["mean"])
    assert curve["num_seeds"] == [2, 2, 2]
    with pytest.raises(UserError, match="metric top3: choose from auroc"):
        few_label_curve(summarize(find_members(few_labels), ["auroc"], 5), "top3")


def test_a_summary_is_written_and_told(few_labels):
    text = write_summary(few_labels, num_resamples=5)
    content = json.loads((few_labels / "summary.json").read_text())
    assert [share["fraction"] for share in content["shares"]] == [0.05, 0.2, 1.0]
    assert (few_labels / "few_labels.png").is_file()
    for said in ("5% of the labels, 20 training images, 2 seeds", "20% of the labels", "100% of the labels"):
        assert said in text
    accuracy = content["shares"][2]["metrics"]["accuracy"]
    assert f"{accuracy['mean']:.3f} [{accuracy['low']:.2f}, {accuracy['high']:.2f}]" in text


def test_several_runs_are_shown_with_their_curves(few_labels, tmp_path):
    text = show_summary([few_labels, few_labels], ["auroc"], 5, figure=tmp_path / "curve.png", out=tmp_path / "s.json")
    assert text.startswith(f"{few_labels}: busi, probe from none, test n = 100")
    assert (tmp_path / "curve.png").is_file()
    with pytest.raises(UserError, match="name the folder of a run"):
        show_summary([])
    with pytest.raises(UserError, match="metric auc: choose from accuracy"):
        show_summary([few_labels], ["auc"], 5)


def test_masks_are_summarized_by_seed(tmp_path):
    table = OverlapTable(["a", "b"], [None] * 2, ["lesion"] * 2, np.array([0.5, 0.7]), np.ones(2), np.ones(2))
    for seed, gain in ((0, 0.0), (1, 0.1)):
        leave(tmp_path / f"seed_{seed}", replace(table, dice=table.dice + gain), seed=seed)
    spread = summarize(find_members(tmp_path), ["dice"], 20)["shares"][0]["metrics"]["dice"]
    assert (spread["mean"], spread["min"], spread["max"]) == pytest.approx((0.65, 0.6, 0.7))
    assert spread["std"] == pytest.approx(0.1 / np.sqrt(2))
