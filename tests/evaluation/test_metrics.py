import time

import numpy as np
import pytest
from sklearn import metrics as reference

from arl_lightning.errors import UserError
from arl_lightning.evaluation.bootstrap import bootstrap_interval
from arl_lightning.evaluation.metrics import (
    METRICS,
    auroc,
    average_precision,
    classification_metrics,
    confusion_counts,
    metric_names,
    midranks,
    predicted_classes,
)

# Six cases by hand, the second class positive. Pairs (positive, negative): 0.9 and 0.6 win over 0.6, 0.3, 0.1 but for
# one tie; 0.3 wins once and ties once. AUROC = (3 + 2.5 + 1.5) / 9.
LABELS = np.array([1, 1, 1, 0, 0, 0])
SCORES = np.array([0.9, 0.6, 0.3, 0.6, 0.3, 0.1])
PROBABILITIES = np.stack([1 - SCORES, SCORES], axis=1)


def drawn(num_cases: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities without ties."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(num_classes, size=num_cases)
    odds = np.exp(generator.normal(size=(num_cases, num_classes)) + np.eye(num_classes)[labels])
    return labels, odds / odds.sum(axis=1, keepdims=True)


def drawn_with_ties(num_cases: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities in 32nds, which are exact and add up to 1."""
    labels, probabilities = drawn(num_cases, num_classes, seed)
    rounded = np.floor(probabilities * 32) / 32
    rounded[:, 0] += 1 - rounded.sum(axis=1)
    return labels, rounded


def test_six_cases_counted_by_hand():
    found = classification_metrics(LABELS, PROBABILITIES, positive=1)
    assert found == pytest.approx(
        {
            "accuracy": 4 / 6,  # 0.6 of the negatives and 0.3 of the positives are wrong
            "auroc": 7 / 9,
            "sensitivity": 2 / 3,
            "specificity": 2 / 3,
            "average_precision": (1 + 2 / 3 + 3 / 5) / 3,  # at 0.9: 1 of 1, at 0.6: 2 of 3, at 0.3: 3 of 5
            "top1": 4 / 6,
            "macro_f1": 2 / 3,
            "balanced_accuracy": 2 / 3,
            "ece": (2 * 0.1 + 2 * 0.2 + 0.1 + 0.1) / 6,  # bins of 0.6 and of 0.3 are half right
            "brier": (0.01 + 0.16 + 0.49 + 0.36 + 0.09 + 0.01) / 6,
        }
    )


def test_metrics_come_in_the_one_order():
    for num_classes, positive in ((2, 1), (2, None), (3, None), (15, None)):
        labels, probabilities = drawn(40, num_classes)
        names = tuple(classification_metrics(labels, probabilities, positive))
        assert names == metric_names(num_classes, positive) == tuple(name for name in METRICS if name in names)
    assert set(metric_names(2, 1)) | set(metric_names(15, None)) == set(METRICS)


@pytest.mark.parametrize("seed", range(5))
def test_two_classes_agree_with_scikit_learn(seed):
    labels, probabilities = drawn_with_ties(150, 2, seed)
    scores, predicted = probabilities[:, 1], probabilities.argmax(axis=1)
    assert len(np.unique(scores)) <= 33  # many ties
    assert classification_metrics(labels, probabilities, positive=1) == pytest.approx(
        {
            "accuracy": reference.accuracy_score(labels, predicted),
            "auroc": reference.roc_auc_score(labels, scores),
            "sensitivity": reference.recall_score(labels, predicted),
            "specificity": reference.recall_score(labels, predicted, pos_label=0),
            "average_precision": reference.average_precision_score(labels, scores),
            "top1": reference.accuracy_score(labels, predicted),
            "macro_f1": reference.f1_score(labels, predicted, average="macro"),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
            "ece": classification_metrics(labels, probabilities, 1)["ece"],  # see test_calibration.py
            "brier": reference.brier_score_loss(labels, scores),
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_several_classes_agree_with_scikit_learn(seed):
    labels, probabilities = drawn_with_ties(300, 6, seed)
    predicted = probabilities.argmax(axis=1)
    expected = {
        "accuracy": reference.accuracy_score(labels, predicted),
        "auroc": reference.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"),
        "top1": reference.accuracy_score(labels, predicted),
        "macro_f1": reference.f1_score(labels, predicted, average="macro"),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        "brier": reference.brier_score_loss(labels, probabilities),
    }
    assert classification_metrics(labels, probabilities, None, names=list(expected)) == pytest.approx(expected)


def test_top3_agrees_with_scikit_learn():
    labels, probabilities = drawn(300, 6)  # no ties: scikit-learn gives them to the later class
    found = classification_metrics(labels, probabilities, None)["top3"]
    assert found == pytest.approx(reference.top_k_accuracy_score(labels, probabilities, k=3))


def test_among_equal_probabilities_the_first_classes_are_the_best():
    labels, probabilities = np.arange(5), np.full((5, 5), 0.2)
    found = classification_metrics(labels, probabilities, None, names=["top1", "top3"])
    assert found == {"top1": 1 / 5, "top3": 3 / 5}


def test_a_threshold_decides_and_holds_the_score_that_equals_it():
    found = classification_metrics(LABELS, PROBABILITIES, positive=1, threshold=0.3)
    assert (found["sensitivity"], found["specificity"], found["accuracy"]) == pytest.approx((1, 1 / 3, 4 / 6))
    assert found["top1"] == found["accuracy"]
    assert found["balanced_accuracy"] == pytest.approx(2 / 3)
    assert found["auroc"] == pytest.approx(7 / 9)  # is not of the threshold
    assert predicted_classes(PROBABILITIES, 1, 0.3).tolist() == [1, 1, 1, 1, 1, 0]
    assert predicted_classes(PROBABILITIES[:, ::-1], 0, 0.3).tolist() == [0, 0, 0, 0, 0, 1]


def test_either_class_may_be_the_positive_one():
    labels, probabilities = drawn(150, 2)
    one, other = (classification_metrics(labels, probabilities, positive) for positive in (1, 0))
    swapped = classification_metrics(1 - labels, probabilities[:, ::-1], positive=1)
    assert swapped == pytest.approx(other)
    assert (one["sensitivity"], one["specificity"]) == (other["specificity"], other["sensitivity"])
    assert one["auroc"] == pytest.approx(other["auroc"])


@pytest.mark.parametrize("seed", range(5))
def test_auroc_depends_on_the_order_of_scores_alone(seed):
    labels, probabilities = drawn_with_ties(150, 2, seed)
    is_positive, scores = labels == 1, probabilities[:, 1]
    area = auroc(is_positive, scores)
    assert auroc(is_positive, np.sqrt(scores)) == auroc(is_positive, 7 * scores**3 - 2) == area
    assert auroc(~is_positive, scores) == pytest.approx(1 - area)
    assert auroc(is_positive, -scores) == pytest.approx(1 - area)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    assert auroc(is_positive[shuffled], scores[shuffled]) == area


def test_constant_scores_separate_nothing_and_perfect_ones_everything():
    assert auroc(LABELS == 1, np.full(6, 0.5)) == 0.5
    assert average_precision(LABELS == 1, np.full(6, 0.5)) == 0.5  # the share of positive cases
    assert auroc(LABELS == 1, LABELS.astype(float)) == average_precision(LABELS == 1, LABELS.astype(float)) == 1


def test_equal_scores_share_the_mean_of_their_ranks():
    assert midranks(np.array([0.3, 0.1, 0.3, 0.7, 0.3])).tolist() == [3, 1, 3, 5, 3]


def test_one_class_only_leaves_what_needs_two_undefined():
    found = classification_metrics(np.ones(3, dtype=int), PROBABILITIES[:3], positive=1)
    undefined = {name for name, value in found.items() if np.isnan(value)}
    assert undefined == {"auroc", "specificity", "average_precision", "balanced_accuracy"}
    assert found["sensitivity"] == found["accuracy"] == 2 / 3
    several = classification_metrics(np.zeros(4, dtype=int), drawn(4, 5)[1], None)
    assert {name for name, value in several.items() if np.isnan(value)} == {"auroc", "balanced_accuracy"}


def test_a_class_without_a_case_does_not_count_in_means_over_classes():
    labels, probabilities = drawn(200, 3)
    has = labels != 2
    found = classification_metrics(labels[has], probabilities[has], None, names=["auroc", "balanced_accuracy"])
    of_two = [auroc(labels[has] == each, probabilities[has, each]) for each in (0, 1)]
    recalls = [np.mean(probabilities[labels == each].argmax(axis=1) == each) for each in (0, 1)]
    assert found == pytest.approx({"auroc": np.mean(of_two), "balanced_accuracy": np.mean(recalls)})


def test_confusion_counts_have_the_true_class_down_and_the_predicted_across():
    counts = confusion_counts(np.array([0, 0, 0, 1, 2]), np.array([0, 2, 2, 1, 0]), 3)
    assert counts.tolist() == [[1, 0, 2], [0, 1, 0], [1, 0, 0]]


def test_probabilities_that_are_no_numbers_are_refused_with_their_count():
    damaged = PROBABILITIES.copy()
    damaged[2:4] = np.nan
    with pytest.raises(UserError, match=r"not a number in 2 of 6 cases"):
        classification_metrics(LABELS, damaged, positive=1)


@pytest.mark.parametrize(
    ("labels", "positive", "names", "said"),
    [
        (LABELS[:5], 1, None, r"labels \(5,\), probabilities \(6, 2\)"),
        (LABELS - 1, 1, None, "labels -1 to 0"),
        (LABELS + 1, 1, None, "labels 1 to 2"),
        (LABELS, 2, None, "positive 2"),
        (LABELS, None, ["sensitivity"], "metrics sensitivity: not of this task"),
        (LABELS, 1, ["acuracy"], "metrics acuracy: not of this task"),
    ],
)
def test_what_does_not_fit_is_refused(labels, positive, names, said):
    with pytest.raises(ValueError, match=said):
        classification_metrics(labels, PROBABILITIES, positive, names=names)


def test_2000_resamples_of_2000_cases_take_less_than_3_seconds():
    labels, probabilities = drawn(2000, 2)
    names = ["accuracy", "auroc", "sensitivity", "specificity"]
    begin = time.process_time()
    bootstrap_interval(
        lambda at: classification_metrics(labels[at], probabilities[at], 1, names=names), np.arange(2000)
    )
    assert time.process_time() - begin < 3  # measured: 0.4 s on one core
