import json
from dataclasses import replace

import numpy as np
import pytest
from binormal import binormal, several_classes

from arl_lightning.errors import UserError
from arl_lightning.evaluation.overlap_table import OverlapTable
from arl_lightning.evaluation.predictions import Predictions, concatenate
from arl_lightning.evaluation.results import Checkpoint, RunInfo, evaluate, read_results, write_run
from arl_lightning.evaluation.segmentation_results import (
    segmentation_results,
    write_segmentation_run,
)
from arl_lightning.evaluation.tables import read_parquet, read_parts

INFO = RunInfo(
    task="busi", protocol="probe", checkpoint=Checkpoint("timm:vit", "ab12"), split_hash="5eed", seed=1, n={"train": 9}
)


def scored(scores, labels, part="test", fold=None, **known) -> Predictions:
    """Make predictions of two classes from probabilities of the second."""
    scores = np.array(scores)
    number = len(scores)
    return Predictions(
        keys=[f"{part}{fold}/{place}" for place in range(number)],
        patients=known.get("patients", [None] * number),
        videos=known.get("videos", [None] * number),
        labels=np.array(labels),
        probabilities=np.stack([1 - scores, scores], axis=1),
        classes=("benign", "malignant"),
        positive=1,
        part=part,
        folds=None if fold is None else np.full(number, fold),
    )


def width(estimate) -> float:
    return estimate["high"] - estimate["low"]


def test_decisions_are_counted_at_the_threshold_of_the_validation_part():
    # Youden's best cut of the validation part lies midway between 0.2 and 0.3.
    validation = scored([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], "val")
    found = evaluate(scored([0.1, 0.26, 0.3, 0.6, 0.2], [0, 0, 1, 1, 1]), validation, num_resamples=50)
    assert found["threshold"]["value"] == pytest.approx(0.25)
    assert "4 validation images" in found["threshold"]["origin"]
    assert found["confusion"]["threshold"] == [[1, 1], [1, 2]]
    assert found["confusion"]["argmax"] == [[2, 0], [2, 1]]
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(3 / 5)
    assert found["metrics"]["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert found["metrics"]["specificity"]["value"] == pytest.approx(1 / 2)
    assert found["at_argmax"]["sensitivity"]["value"] == pytest.approx(1 / 3)
    assert found["class_counts"] == {"benign": 2, "malignant": 3}


def test_test_labels_do_not_move_the_threshold():
    test, validation = binormal(), binormal(seed=1, part="val")
    turned = replace(test, labels=1 - test.labels)
    thresholds = [evaluate(each, validation, ["accuracy"], 2)["threshold"] for each in (test, turned)]
    assert thresholds[0] == thresholds[1]
    assert evaluate(test, binormal(seed=2, part="val"), ["accuracy"], 2)["threshold"] != thresholds[0]


def test_each_fold_is_cut_at_its_own_threshold():
    labels = [0, 0, 1, 1]
    low, high = [0.01, 0.02, 0.03, 0.04], [0.91, 0.92, 0.93, 0.94]
    test = concatenate([scored(low, labels, fold=0), scored(high, labels, fold=1)])
    validation = concatenate([scored(low, labels, "val", fold=0), scored(high, labels, "val", fold=1)])
    found = evaluate(test, validation, ["accuracy", "auroc"], 20)
    assert found["metrics"]["accuracy"]["value"] == 1
    assert found["at_argmax"]["accuracy"]["value"] == 0.5
    assert found["threshold"]["value"] == pytest.approx([0.025, 0.925])
    assert found["metrics"]["auroc"]["value"] == 0.75  # pooled scores: 4 of 16 pairs are in the wrong order


def test_without_a_validation_part_the_likeliest_class_counts():
    found = evaluate(scored([0.1, 0.6, 0.4], [0, 1, 1]), None, ["accuracy"], 20)
    assert found["threshold"] == {"value": 0.5, "origin": "the likeliest class: there is no validation part"}
    assert found["confusion"]["threshold"] is None
    assert found["at_argmax"] == {}
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3)


def test_a_validation_part_of_one_class_is_said_and_not_used():
    found = evaluate(scored([0.1, 0.6], [0, 1]), scored([0.1, 0.9], [1, 1], "val"), ["accuracy"], 20)
    assert "one class only" in found["threshold"]["origin"]


def test_the_interval_holds_the_population_value_and_agrees_with_delong():
    found = evaluate(binormal(auroc=0.85, num_positive=300, num_negative=300), None, ["auroc"], 500)
    bootstrap, delong = found["metrics"]["auroc"], found["delong"]
    assert bootstrap["low"] < 0.85 < bootstrap["high"]
    assert delong["value"] == pytest.approx(bootstrap["value"])
    assert [delong["low"], delong["high"]] == pytest.approx([bootstrap["low"], bootstrap["high"]], abs=0.01)


def test_copies_of_a_patients_images_narrow_no_interval():
    once = binormal(num_patients=100)
    fourfold = Predictions(
        [f"{key} {copy}" for copy in range(4) for key in once.keys], list(once.patients) * 4, [None] * 400,
        np.tile(once.labels, 4), np.tile(once.probabilities, (4, 1)), once.classes, 1,
    )  # fmt: skip
    by_image = replace(fourfold, patients=[None] * 400)
    widths = [width(evaluate(each, None, ["auroc"], 500)["metrics"]["auroc"]) for each in (once, fourfold, by_image)]
    assert widths[1] == pytest.approx(widths[0], rel=0.02)
    assert widths[2] == pytest.approx(widths[0] / 2, rel=0.15)


@pytest.mark.parametrize(
    ("known", "by", "said"),
    [
        ({}, "image", "no patient is known: intervals resample 4 images"),
        ({"patients": ["1", "1", "2", "2"]}, "patient", "intervals resample 2 patients"),
        ({"patients": ["1", "1", None, None]}, "patient where known", "intervals resample 3 patients, or images where"),
        ({"videos": ["1", "2", None, None]}, "video", "no patient is known: intervals resample 4 videos"),
    ],
)
def test_what_was_resampled_is_said(known, by, said):
    found = evaluate(scored([0.1, 0.4, 0.6, 0.9], [0, 0, 1, 1], **known), None, ["auroc"], 10)
    assert found["grouped_by"] == by
    assert said in found["grouping"]


def test_clips_are_evaluated_by_the_mean_of_their_frames():
    frames = scored(
        [0.1, 0.2, 0.9, 0.2, 0.6, 0.8], [0, 0, 1, 1, 0, 1], videos=["a", "a", "b", "b", None, None]
    )  # clip b: 0.55
    found = evaluate(frames, None, ["accuracy", "auroc"], 20)
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(4 / 6)
    clips = found["per_video"]
    assert clips["num_images"] == 4
    assert clips["metrics"]["accuracy"]["value"] == pytest.approx(3 / 4)
    assert clips["metrics"]["auroc"]["value"] == pytest.approx(3 / 4)
    assert evaluate(binormal(), None, ["auroc"], 2)["per_video"] is None


def test_clips_of_several_labels_are_not_averaged():
    found = evaluate(scored([0.1, 0.9], [0, 1], videos=["a", "a"]), None, ["accuracy"], 5)
    assert found["per_video"] is None


def test_what_is_not_defined_is_null():
    found = evaluate(scored([0.1, 0.4, 0.6], [0, 0, 0]), None, ["auroc", "sensitivity", "accuracy"], 10)
    assert found["metrics"]["auroc"] == {"value": None, "low": None, "high": None, "num_valid": 0}
    assert found["metrics"]["sensitivity"]["value"] is None
    assert found["delong"]["value"] is None
    json.dumps(found, allow_nan=False)


def test_a_perfect_score_has_no_interval():
    found = evaluate(scored([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]), None, ["auroc"], 50)
    assert found["metrics"]["auroc"]["value"] == 1
    assert found["metrics"]["auroc"]["low"] is None


def test_the_calibration_error_stands_beside_what_chance_would_show():
    calibrated = binormal(num_positive=200, num_negative=300)
    odds = calibrated.probabilities**4
    overconfident = replace(calibrated, probabilities=odds / odds.sum(axis=1, keepdims=True))
    for predictions, within in ((calibrated, True), (overconfident, False)):
        found = evaluate(predictions, None, ["ece"], 500)
        low, high = found["calibration"]["expected"]
        assert (low <= found["calibration"]["ece"] <= high) == within
        assert found["metrics"]["ece"]["value"] == pytest.approx(found["calibration"]["ece"])
        assert found["metrics"]["ece"]["low"] is None
        assert sum(each["num_cases"] for each in found["calibration"]["bins"]) == 500


def test_several_classes_have_no_threshold():
    found = evaluate(several_classes(["a", "b", "c", "d"]), None, None, 20)
    assert found["threshold"] is None
    assert found["delong"] is None
    assert set(found["metrics"]) >= {"top1", "top3", "macro_f1", "auroc"}
    assert np.sum(found["confusion"]["argmax"]) == 120


def test_a_run_leaves_results_predictions_and_figures(tmp_path):
    test, validation = binormal(), binormal(seed=1, part="val")
    path = write_run(tmp_path / "run", INFO, evaluate(test, validation, num_resamples=20), [validation, test])
    found = read_results(tmp_path / "run")
    assert path.name == "results.json"
    assert found["task"] == "busi"
    assert found["checkpoint"] == {"spec": "timm:vit", "sha256": "ab12"}
    assert found["versions"].keys() == {"python", "arl_lightning", "torch", "lightning", "timm", "numpy"}
    assert "unknown" not in found["versions"].values()
    assert read_parts(tmp_path / "run/predictions.parquet").keys() == {"val", "test"}
    names = sorted(str(each.relative_to(path.parent)) for each in path.parent.rglob("*") if each.is_file())
    assert names == [
        "figures/confusion.png", "figures/precision_recall.png", "figures/reliability.png", "figures/roc.png",
        "predictions.parquet", "results.json",
    ]  # fmt: skip


def test_results_that_are_missing_or_not_ours_are_named(tmp_path):
    with pytest.raises(UserError, match=r"results\.json: missing"):
        read_results(tmp_path)
    for content, said in (("{", "not readable as JSON"), ('{"metrics": 1}', "not a run's results")):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(UserError, match=rf"results\.json: is {said}"):
            read_results(tmp_path)


def masks() -> OverlapTable:
    """Two patients, three images of two structures; one HD95 is not defined."""
    return OverlapTable(
        keys=["a", "a", "b", "b", "d", "d"],
        patients=["1", "1", "1", "1", "2", "2"],
        structures=["ventricle", "atrium"] * 3,
        dice=np.array([0.9, 0.6, 0.7, 0.0, 0.5, 0.3]),
        iou=np.array([0.8, 0.5, 0.6, 0.0, 0.4, 0.1]),
        hd95=np.array([2.0, 4.0, 6.0, np.nan, 7.0, 8.0]),
    )


def test_masks_are_averaged_by_structure_and_then_over_structures():
    found = segmentation_results(masks(), num_resamples=200)
    assert found["structures"]["ventricle"]["dice"]["value"] == pytest.approx(0.7)
    assert found["structures"]["atrium"]["hd95"]["value"] == pytest.approx(6.0)
    assert found["metrics"]["dice"]["value"] == pytest.approx((0.7 + 0.3) / 2)
    assert found["metrics"]["iou"]["value"] == pytest.approx((0.6 + 0.2) / 2)
    assert found["metrics"]["hd95"]["value"] == pytest.approx((5.0 + 6.0) / 2)
    assert found["undefined"] == {"ventricle": {}, "atrium": {"hd95": 1}}
    assert found["num_images"] == 3
    assert found["grouping"] == "intervals resample 2 patients"
    # A resample holds patient 1 twice, patient 2 twice, or both: means 0.8, 0.5 and 0.7.
    ventricle = found["structures"]["ventricle"]["dice"]
    assert [ventricle["low"], ventricle["high"]] == pytest.approx([0.5, 0.8])


def test_scores_of_masks_are_kept(tmp_path):
    table = masks()
    write_segmentation_run(tmp_path, INFO, segmentation_results(table, 20), table)
    assert read_results(tmp_path)["kind"] == "segmentation"
    assert (tmp_path / "figures/overlap.png").is_file()
    found = OverlapTable.read_parquet(tmp_path / "predictions.parquet")
    for name in ("keys", "patients", "structures", "dice", "iou", "hd95"):
        np.testing.assert_array_equal(getattr(found, name), getattr(table, name))
    with pytest.raises(UserError, match="holds segmentation, not classification"):
        read_parquet(tmp_path / "predictions.parquet")


def test_a_structure_scored_twice_is_refused():
    with pytest.raises(UserError, match="has a structure twice"):
        OverlapTable(["a", "a"], [None] * 2, ["x", "x"], np.ones(2), np.ones(2), np.ones(2))
