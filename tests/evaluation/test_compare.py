import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from binormal import binormal, several_classes
from made_runs import leave

from arl_lightning.arguments import call
from arl_lightning.errors import UserError
from arl_lightning.evaluation.compare import compare, compared
from arl_lightning.evaluation.delong import delong_test
from arl_lightning.evaluation.metrics import auroc
from arl_lightning.evaluation.overlap_table import OverlapTable
from arl_lightning.evaluation.predictions import average
from arl_lightning.evaluation.schema import Checkpoint

WORSE = {"noise": 1.5, "noise_seed": 3}


@pytest.fixture
def two_runs(tmp_path):
    validation = binormal(seed=1, part="val")
    worse = leave(tmp_path / "worse", [validation, binormal(0.95, **WORSE)], checkpoint=Checkpoint("none"))
    better = leave(tmp_path / "better", [validation, binormal(0.95)], checkpoint=Checkpoint("a/b/c/last.ckpt", "ab"))
    return worse, better


def test_a_run_is_compared_with_the_first_on_the_same_images(two_runs):
    found = compared(two_runs, num_resamples=500)
    first, second = found.rows
    assert first.differences == {}
    versus = second.differences["auroc"]
    assert versus["difference"] == pytest.approx(second.metrics["auroc"]["value"] - first.metrics["auroc"]["value"])
    assert versus["low"] > 0
    assert versus["p"] < 0.05
    worse, better = binormal(0.95, **WORSE), binormal(0.95)
    test = delong_test(worse.labels == 1, better.positive_scores(), worse.positive_scores())
    assert versus["delong_p"] == pytest.approx(test.p)
    assert second.differences["accuracy"]["delong_p"] is None


def test_intervals_are_those_of_the_runs_own_results(two_runs):
    from arl_lightning.evaluation.results import evaluate

    own = evaluate(binormal(0.95), binormal(seed=1, part="val"), ["accuracy", "auroc"], 200)
    found = compared(two_runs, ["accuracy", "auroc"], num_resamples=200).rows[1]
    assert found.metrics == own["metrics"]


def test_a_run_does_not_differ_from_itself(two_runs):
    found = compared([two_runs[0], two_runs[0]], num_resamples=50).rows[1].differences["auroc"]
    assert (found["difference"], found["low"], found["high"], found["p"], found["delong_p"]) == (0, 0, 0, 1, 1)


def test_the_order_of_the_rows_does_not_matter(two_runs, tmp_path):
    shuffled = binormal(0.95).at(np.random.default_rng(0).permutation(100))
    other = leave(tmp_path / "shuffled", [binormal(seed=1, part="val"), shuffled])
    for own, strange in zip(
        compared(two_runs, num_resamples=50).rows[1].differences.values(),
        compared([two_runs[0], other], num_resamples=50).rows[1].differences.values(),
        strict=True,
    ):
        assert own == pytest.approx(strange)


def test_the_text_says_all_a_reader_needs(two_runs):
    text = compare(list(two_runs), num_resamples=50)
    assert "busi, split 5eed, test n = 100 (60 benign, 40 malignant)" in text
    assert "95% intervals of 50 resamples; no patient is known: intervals resample 100 images" in text
    assert ".../c/last.ckpt" in text
    assert "DeLong p" in text
    assert "highest Youden index on each run's validation part" in text
    lines = [line for line in text.splitlines() if line.startswith(str(two_runs[1]))]
    assert len(lines) == 1 + 4  # its row, and a difference for each metric


def test_other_splits_are_refused_by_file_and_hash(two_runs, tmp_path):
    other = leave(tmp_path / "other", [binormal()], split_hash="0dd")
    with pytest.raises(UserError) as refused:
        compare([two_runs[0], other])
    message = str(refused.value)
    for part in (str(two_runs[0] / "results.json"), "5eed", str(other / "results.json"), "0dd"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda own: own.at(np.arange(99)), r"1 images are in one alone, such as test0/image \(99\)\.png"),
        (lambda own: replace(own, labels=1 - own.labels), r"test0/image \(0\)\.png \(100 such\) is malignant in one"),
        (lambda own: replace(own, classes=("b", "m")), "classes b, m with positive 1"),
    ],
)
def test_other_images_labels_or_classes_are_refused_by_file(two_runs, tmp_path, changed, said):
    other = leave(tmp_path / "other", [changed(binormal())])
    with pytest.raises(UserError, match=said) as refused:
        compare([two_runs[0], other])
    assert f"{two_runs[0] / 'predictions.parquet'} and {other / 'predictions.parquet'}" in str(refused.value)


def test_other_tasks_are_refused(two_runs, tmp_path):
    other = leave(tmp_path / "other", [binormal()], task="gbcu")
    with pytest.raises(UserError, match=r"task busi, but .*: gbcu"):
        compare([two_runs[0], other])


def test_seeds_are_averaged_before_scoring_and_it_is_said(two_runs, tmp_path):
    seeds = [binormal(0.95, noise=1.0, noise_seed=seed, run_seed=seed) for seed in (1, 2)]
    for each in seeds:
        leave(tmp_path / f"seeds/seed_{each.seed}", [each], seed=each.seed)
    found = compared([two_runs[0], tmp_path / "seeds"], num_resamples=20)
    mean = average(seeds)
    assert found.rows[1].metrics["auroc"]["value"] == pytest.approx(auroc(mean.labels == 1, mean.positive_scores()))
    single = [auroc(each.labels == 1, each.positive_scores()) for each in seeds]
    assert found.rows[1].over_seeds["auroc"] == pytest.approx((np.mean(single), np.std(single, ddof=1)))
    assert "seeds 1, 2 averaged before scoring" in str(found)
    assert "runs of 1 and 2 seeds" in str(found)
    assert "the likeliest class, for want of one validation part" in str(found)


def test_folds_are_pooled_however_they_were_dealt(tmp_path):
    whole = binormal(0.95)
    for name, dealt in (("two", 2), ("four", 4)):
        for fold in range(dealt):
            own = whole.at(np.arange(fold, 100, dealt))
            leave(tmp_path / name / f"fold_{fold}", [own], fold=fold)
    found = compared([tmp_path / "two", tmp_path / "four"], num_resamples=20)
    assert found.num_images == 100
    assert found.rows[1].num_folds == 4
    assert found.rows[1].differences["auroc"]["difference"] == 0


def test_clips_are_compared_by_request(tmp_path):
    runs = [
        leave(
            tmp_path / str(noise), [replace(binormal(noise=noise, num_videos=20), labels=np.repeat([1, 0], [40, 60]))]
        )
        for noise in (0.5, 1.0)
    ]
    assert compared(runs, num_resamples=5).num_images == 100
    assert compared(runs, per_video=True, num_resamples=5).num_images == 20


def test_several_shares_are_refused(two_runs, tmp_path):
    for share in (0.1, 1.0):
        leave(tmp_path / f"few/share_{share}", [binormal()], fraction=share)
    with pytest.raises(UserError, match=r"few: holds shares 0\.1, 1 of the labels; name the folder of one"):
        compare([two_runs[0], tmp_path / "few"])


def test_a_folder_of_two_runs_is_refused(two_runs):
    with pytest.raises(UserError, match="holds several runs: checkpoint"):
        compare([two_runs[0], two_runs[0].parent])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{0}"], "name the folders of two runs or more"),
        (["{0}", "nowhere"], r"nowhere/results\.json: missing"),
        (["{0}", "{1}", "--metrics", "auc"], "--metrics auc: choose from accuracy, auroc,"),
        (["{0}", "{1}", "--out", "table.xls"], r"--out table\.xls: must end with \.csv or \.json or \.md"),
        (["{0}", "{1}", "--figure", "f.pdf"], r"--figure f\.pdf: must end with \.png"),
    ],
)
def test_a_mistake_on_the_command_line_gets_its_line(two_runs, arguments, said):
    with pytest.raises(UserError, match=said):
        call(compare, "arl compare", [each.format(*two_runs) for each in arguments])


def test_tables_and_the_figure_are_written(two_runs, tmp_path):
    for name in ("table.csv", "table.json", "table.md"):
        call(compare, "arl compare", [*map(str, two_runs), "--num-resamples", "20", "--out", str(tmp_path / name)])
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    content = json.loads((tmp_path / "table.json").read_text())
    assert len(rows) == 2 * 4
    assert rows[0]["difference"] == ""
    assert float(rows[5]["difference"]) == content["rows"][1]["differences"]["auroc"]["difference"]
    assert float(rows[5]["delong_p"]) == content["rows"][1]["differences"]["auroc"]["delong_p"]
    assert (tmp_path / "table.md").read_text().count("\n| --- |") == 2


def test_several_classes_are_compared_without_delong(tmp_path):
    names = ["a", "b", "c", "d"]
    runs = [leave(tmp_path / str(seed), [several_classes(names)], seed=seed) for seed in (0, 1)]
    found = compared(runs, num_resamples=5)
    assert found.metrics == ("top1", "top3", "macro_f1", "auroc")
    assert not found.has_delong


def test_masks_are_compared_by_patient(tmp_path):
    keys, patients = [f"{place}.png" for place in range(20)], [str(place // 2) for place in range(20)]
    dice = np.linspace(0.5, 0.9, 20)
    tables = [
        OverlapTable(keys, patients, ["lesion"] * 20, dice + gain, dice / 2, np.full(20, 5.0)) for gain in (0, 0.05)
    ]
    order = np.arange(20)[::-1]
    tables[1] = OverlapTable(
        [keys[place] for place in order], [patients[place] for place in order], ["lesion"] * 20,
        tables[1].dice[order], tables[1].iou[order], tables[1].hd95[order],
    )  # fmt: skip
    runs = [leave(tmp_path / str(place), table, protocol="segment") for place, table in enumerate(tables)]
    found = compared(runs, num_resamples=100)
    assert found.grouping == "intervals resample 10 patients"
    assert found.rows[1].differences["dice"]["difference"] == pytest.approx(0.05)
    assert found.rows[1].differences["dice"]["low"] == pytest.approx(0.05)
    assert found.rows[1].differences["iou"]["p"] == 1
