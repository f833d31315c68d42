from dataclasses import replace

import numpy as np
import pytest
from binormal import binormal, several_classes
from made_runs import leave
from PIL import Image
from sklearn import metrics as sklearn_metrics

from arl_lightning.evaluation.compare import compared
from arl_lightning.evaluation.comparison_figures import draw_few_labels, draw_forest
from arl_lightning.evaluation.drawing import save_png
from arl_lightning.evaluation.figures import draw_roc, draw_run, precision_recall_curve, roc_curve
from arl_lightning.evaluation.results import evaluate

TIED = np.array([0.1, 0.4, 0.4, 0.4, 0.8, 0.9, 0.9])
POSITIVE = np.array([0, 1, 0, 1, 0, 1, 1], bool)


def test_curves_agree_with_a_reference_where_scores_tie():
    false, true, _ = sklearn_metrics.roc_curve(POSITIVE, TIED, drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(POSITIVE, TIED), (false, true))
    precision, recall, _ = sklearn_metrics.precision_recall_curve(POSITIVE, TIED)
    np.testing.assert_allclose(precision_recall_curve(POSITIVE, TIED), (recall[::-1], precision[::-1]))


def test_the_operating_point_lies_where_the_counts_say():
    test = binormal()
    results = evaluate(test, binormal(seed=1, part="val"), num_resamples=5)
    axis = draw_roc(test, results).axes[0]
    point = next(line for line in axis.lines if line.get_marker() == "o")
    (true_negative, false_positive), (false_negative, true_positive) = results["confusion"]["threshold"]
    assert point.get_xdata()[0] == pytest.approx(false_positive / (true_negative + false_positive))
    assert point.get_ydata()[0] == pytest.approx(true_positive / (true_positive + false_negative))
    assert "n = 100 (40 positive)" in axis.get_title(loc="left")


@pytest.mark.parametrize(
    ("test", "names"),
    [
        (binormal(), {"roc", "precision_recall", "reliability", "confusion"}),
        (binormal(num_positive=1, num_negative=2), {"roc", "precision_recall", "reliability", "confusion"}),
        (replace(binormal(), labels=np.zeros(100, int)), {"roc", "precision_recall", "reliability", "confusion"}),
        (several_classes(["A4C", "cost_$x^{2$", "$\\frac"]), {"roc", "reliability", "confusion"}),
        (several_classes([f"view_{place}" for place in range(14)], 10), {"roc", "reliability", "confusion"}),
    ],
)
def test_every_run_can_be_drawn_legibly(tmp_path, test, names):
    figures = draw_run(test, evaluate(test, None, num_resamples=5))
    assert figures.keys() == names
    for name, figure in figures.items():
        save_png(figure, tmp_path / f"{name}.png")
        width, height = Image.open(tmp_path / f"{name}.png").size
        assert 600 <= width <= 1200
        assert 600 <= height <= 1200
    assert len(list(tmp_path.iterdir())) == len(names)


def test_confusion_cells_say_counts_and_row_percentages():
    labels = np.array([0, 0, 0, 1, 1])
    test = replace(binormal(num_positive=2, num_negative=3), labels=labels)
    scores = np.array([0.1, 0.2, 0.9, 0.8, 0.7])
    test = replace(test, probabilities=np.stack([1 - scores, scores], axis=1))
    axis = draw_run(test, evaluate(test, None, num_resamples=5))["confusion"].axes[0]
    assert [text.get_text() for text in axis.texts] == ["2\n66.7%", "1\n33.3%", "0\n0.0%", "2\n100.0%"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["benign (3)", "malignant (2)"]


def test_the_forest_has_a_row_for_each_metric_and_a_mark_for_each_run(tmp_path):
    runs = [leave(tmp_path / f"runs/{noise}", [binormal(noise=noise)]) for noise in (0.0, 1.0, 2.0)]
    figure = draw_forest(compared(runs, ["auroc", "accuracy"], num_resamples=20))
    assert len(figure.axes) == 2 * 2
    marks = [[line.get_xdata()[0] for line in axis.lines if line.get_marker() == "s"] for axis in figure.axes]
    assert [len(each) for each in marks] == [3, 2, 3, 2]
    assert marks[1] == pytest.approx([marks[0][1] - marks[0][0], marks[0][2] - marks[0][0]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0.0", "1.0", "2.0"]
    save_png(figure, tmp_path / "forest.png")


def test_few_labels_are_drawn_on_a_logarithmic_share():
    curve = {
        "fraction": [0.01, 0.1, 1.0], "n_train": [4, 40, 400], "mean": [0.6, None, 0.9], "std": [0.1, None, 0.02],
        "num_seeds": [3, 3, 1],
    }  # fmt: skip
    axis = draw_few_labels({"a/scratch": curve, "a/arl": curve}, "auroc", 142).axes[0]
    assert axis.get_xscale() == "log"
    assert list(axis.lines[0].get_xdata()) == [0.01, 1.0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1%\n4", "100%\n400"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["scratch", "arl"]
    assert "1 to 3 seeds" in axis.get_title(loc="left")
