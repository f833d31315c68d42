import dataclasses
import json

import numpy as np
import pyarrow.parquet
import pytest
from binormal import binormal, several_classes

from arl_lightning.errors import UserError
from arl_lightning.evaluation.predictions import Predictions, aligned_to, average, concatenate
from arl_lightning.evaluation.tables import read_parquet, read_parts, write_parquet


def few(**changes) -> Predictions:
    fields = {
        "keys": ["a.png", "c.avi#0", "c.avi#1", "d.png"],
        "patients": [None] * 4,
        "videos": [None, "c.avi", "c.avi", None],
        "labels": np.array([0, 1, 1, 0]),
        "probabilities": np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]]),
        "classes": ("benign", "malignant"),
        "positive": 1,
    }
    return Predictions(**{**fields, **changes})


def test_a_table_gives_back_what_was_written(tmp_path):
    test = few(patients=["7", None, None, "7"], seed=3)
    val = binormal(part="val", fold=2)
    write_parquet(tmp_path / "p.parquet", [val, test])
    found = read_parts(tmp_path / "p.parquet")
    for own, other in ((test, found["test"]), (val, found["val"])):
        for field in dataclasses.fields(own):
            assert np.array_equal(getattr(own, field.name), getattr(other, field.name)), field.name
    assert np.array_equal(read_parquet(tmp_path / "p.parquet").labels, test.labels)


def test_a_table_has_one_named_row_for_each_image(tmp_path):
    write_parquet(tmp_path / "p.parquet", [few()])
    table = pyarrow.parquet.read_table(tmp_path / "p.parquet")
    assert table.column_names == [
        "key", "patient", "video", "label", "part", "prob_benign", "prob_malignant", "fold", "seed",
    ]  # fmt: skip
    assert table.slice(1, 1).to_pylist() == [
        {
            "key": "c.avi#0", "patient": None, "video": "c.avi", "label": "malignant", "prob_benign": 0.2,
            "prob_malignant": 0.8, "part": "test", "fold": None, "seed": None,
        }
    ]  # fmt: skip
    assert json.loads(table.schema.metadata[b"arl_lightning"])["classes"] == ["benign", "malignant"]
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]  # no temporary name is left


@pytest.mark.parametrize("content", [None, b"", b"no table"])
def test_what_is_no_table_of_ours_is_named(tmp_path, content):
    path = tmp_path / "p.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"p\.parquet: "):
        read_parquet(path)


def test_a_missing_part_is_named(tmp_path):
    write_parquet(tmp_path / "p.parquet", [few()])
    with pytest.raises(UserError, match=r"p\.parquet: has no predictions of the val part"):
        read_parquet(tmp_path / "p.parquet", "val")


def test_groups_are_patients_then_clips_then_images_and_never_collide():
    same_name = few(keys=["7", "c#0", "c#1", "d"], patients=["7", None, None, None], videos=[None, "7", "7", None])
    assert list(same_name.groups()) == ["patient 7", "video 7", "video 7", "image d"]
    assert same_name.grouped_by == "patient where known"
    assert few(patients=["1", "2", "2", "1"]).grouped_by == "patient"
    assert few().grouped_by == "video"
    assert few(videos=[None] * 4).grouped_by == "image"


def test_a_clip_has_the_mean_probability_of_its_frames():
    clips = few().per_video()
    assert clips.keys == ("image a.png", "video c.avi", "image d.png")
    assert list(clips.labels) == [0, 1, 0]
    np.testing.assert_allclose(clips.probabilities, [[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])


def test_a_clip_with_two_labels_is_refused():
    with pytest.raises(UserError, match=r"video c\.avi: its frames have several labels"):
        few(labels=np.array([0, 1, 0, 0])).per_video()


def test_folds_are_joined_in_order():
    first, second = few(folds=np.zeros(4), seed=1), binormal(fold=1, run_seed=1)
    joined = concatenate([first, second])
    assert joined.keys == first.keys + second.keys
    assert list(np.bincount(joined.folds)) == [4, 100]
    assert joined.seed == 1


def test_an_image_that_two_folds_test_is_refused():
    with pytest.raises(UserError, match=r"a\.png occurs 2 times"):
        concatenate([few(folds=np.zeros(4)), few(folds=np.ones(4))])


def test_folds_may_share_validation_images():
    joined = concatenate([few(folds=np.full(4, fold), part="val") for fold in range(2)])
    assert len(joined) == 8


def test_other_classes_cannot_be_joined():
    with pytest.raises(UserError, match="benign, malignant cannot be joined with those of test for x, y, z"):
        concatenate([few(), several_classes("xyz")])


def test_seeds_are_averaged_by_image_whatever_their_order():
    first, second = few(), few(probabilities=np.array([[0.7, 0.3], [0.4, 0.6], [0.6, 0.4], [0.1, 0.9]]))
    mean = average([first, second.at(np.array([3, 1, 0, 2]))])
    assert mean.keys == first.keys
    np.testing.assert_allclose(mean.probabilities[:, 1], [0.2, 0.7, 0.4, 0.7])


def test_other_images_or_labels_do_not_align():
    with pytest.raises(UserError, match=r"1 images are in one alone, such as d\.png"):
        aligned_to(few(), few().at(np.arange(3)))
    with pytest.raises(UserError, match=r"d\.png \(1 such\) is benign in one and malignant in the other"):
        aligned_to(few(), few(labels=np.array([0, 1, 1, 1])))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probabilities": np.full((4, 2), np.nan)}, r"a\.png \(4 such\) has no probabilities that sum to one"),
        ({"probabilities": np.array([[0.9, 0.1]] * 3 + [[0.9, 0.9]])}, r"d\.png \(1 such\)"),
        ({"probabilities": np.full((4, 3), 1 / 3)}, "for 2 classes"),
        ({"labels": np.array([0, 1, 2, 0])}, r"c\.avi#1 has label 2"),
        ({"labels": np.array([0, 1])}, r"labels of shape \(2,\) for 4 images"),
        ({"keys": ["a", "b", "a", "c"]}, "a occurs 2 times"),
        ({"positive": 2}, "positive class 2 of 2"),
        ({"classes": ("benign", "benign")}, "at least two with names of their own"),
    ],
)
def test_what_does_not_fit_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        few(**changes)
