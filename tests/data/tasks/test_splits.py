from collections import Counter
from pathlib import Path

import pytest

from arl_lightning.data.tasks.case import Case
from arl_lightning.data.tasks.splits import (
    Split,
    SplitOptions,
    crossing_clips,
    crossing_patients,
    label_share,
    split_cases,
    split_folds,
    split_hash,
)
from arl_lightning.errors import UserError

DRAWN = SplitOptions(source="drawn", test=0.25, val=0.125)


def images(num_benign=48, num_malignant=16, patients=None, split=None):
    """Cases without patients, or each with the patient that `patients` gives its number."""
    labels = ["benign"] * num_benign + ["malignant"] * num_malignant
    return [
        Case(
            f"{label}/{number}.png",
            Path(f"{number}.png"),
            label,
            patient=patients(number) if patients else None,
            split=split(number) if split else None,
        )
        for number, label in enumerate(labels)
    ]


def labels_of(cases, places):
    return Counter(cases[place].label for place in places)


def parts(split):
    return split.train, split.val, split.test


def test_a_drawn_split_has_the_sizes_asked_for_and_the_classes_in_proportion():
    cases = images()
    split = split_cases(cases, DRAWN)
    assert [len(part) for part in parts(split)] == [40, 8, 16]
    assert labels_of(cases, split.test) == {"benign": 12, "malignant": 4}
    assert labels_of(cases, split.val) == {"benign": 6, "malignant": 2}
    assert sorted(place for part in parts(split) for place in part) == list(range(64))


def test_sizes_may_be_numbers_of_cases():
    split = split_cases(images(), SplitOptions(source="drawn", test=7, val=3))
    assert [len(part) for part in parts(split)] == [54, 3, 7]


def test_a_seed_gives_one_split_whatever_the_order_of_the_cases():
    cases = images()
    reverse = cases[::-1]
    keys = {cases[place].key for place in split_cases(cases, DRAWN).test}
    assert keys == {reverse[place].key for place in split_cases(reverse, DRAWN).test}
    other = split_cases(cases, SplitOptions(source="drawn", test=0.25, val=0.125, seed=1))
    assert keys != {cases[place].key for place in other.test}


def test_a_further_case_moves_at_most_as_many_as_a_part_grows():
    cases = images()
    more = [*cases, Case("benign/new.png", Path("new.png"), "benign")]
    before = {cases[place].key for place in split_cases(cases, DRAWN).test}
    after = {more[place].key for place in split_cases(more, DRAWN).test}
    assert len(before ^ after) <= 3


def test_no_patient_is_in_two_parts():
    cases = images(patients=lambda number: f"p{number // 4}")
    split = split_cases(cases, DRAWN)
    seen = [{cases[place].patient for place in part} for part in parts(split)]
    assert len(set.union(*seen)) == sum(map(len, seen))
    assert len(split.test) == 16


def test_frames_of_a_clip_without_a_patient_stay_together():
    cases = [
        Case(f"{clip}.mp4#{frame}", Path(f"{clip}.mp4"), "a" if clip % 2 else "b", video=str(clip), frame=frame)
        for clip in range(12)
        for frame in range(3)
    ]
    split = split_cases(cases, DRAWN)
    assert {cases[place].video for place in split.train}.isdisjoint({cases[place].video for place in split.test})


def test_a_class_of_few_large_patients_is_in_every_part():
    cases = images(64, 60, patients=lambda number: f"p{number}" if number < 64 else f"q{number % 3}")
    split = split_cases(cases, SplitOptions(source="drawn", test=0.1, val=0.1))
    assert all(labels_of(cases, part)["malignant"] for part in parts(split))


def test_a_released_split_is_kept_and_only_validation_is_drawn_from_training():
    cases = images(split=lambda number: "test" if number % 4 == 0 else "train")
    split = split_cases(cases, SplitOptions(val=0.125))
    assert split.test == tuple(range(0, 64, 4))
    assert len(split.val) == 6  # an eighth of the 48
    assert set(split.val).isdisjoint(split.train)


def test_a_split_released_in_part_is_refused_with_the_image_and_the_fix():
    cases = images(split=lambda number: "train" if number else None)
    with pytest.raises(UserError, match=r"benign/0.png \(1 such\) is in no part; use drawn"):
        split_cases(cases, SplitOptions(source="released"))


def test_a_test_part_without_anything_to_train_on_is_refused():
    with pytest.raises(UserError, match=r"split\.test 64"):
        split_cases(images(), SplitOptions(source="drawn", test=64))


@pytest.mark.parametrize("size", [0, -1, 2.5, float("nan"), float("inf"), -float("inf")])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(UserError, match=r"split\.test"):
        SplitOptions(test=size)


def test_folds_test_every_case_once_with_the_classes_in_proportion():
    cases = images(50, 25)
    splits = split_folds(cases, 5, DRAWN)
    assert sorted(place for split in splits for place in split.test) == list(range(75))
    assert all(labels_of(cases, split.test) == {"benign": 10, "malignant": 5} for split in splits)
    assert all(set(split.test).isdisjoint(split.train + split.val) for split in splits)


def test_folds_keep_patients_together():
    cases = images(patients=lambda number: f"p{number // 4}")
    for split in split_folds(cases, 4, DRAWN):
        inside = {cases[place].patient for place in split.test}
        assert inside.isdisjoint({cases[place].patient for place in (*split.train, *split.val)})


def test_more_folds_than_patients_of_a_class_are_refused():
    cases = images(patients=lambda number: f"p{number // 8}")
    with pytest.raises(UserError, match="class 'malignant' has only 2 patients"):
        split_folds(cases, 3, DRAWN)


def test_shares_of_the_labels_are_nested_and_stratified():
    cases = images(400, 100)
    train = tuple(range(500))
    shares = [set(label_share(cases, train, fraction, seed=0)) for fraction in (0.01, 0.1, 0.5, 1.0)]
    assert [len(share) for share in shares] == [5, 50, 250, 500]
    assert shares[0] < shares[1] < shares[2] < shares[3]
    assert labels_of(cases, shares[1]) == {"benign": 40, "malignant": 10}
    assert shares[1] != set(label_share(cases, train, 0.1, seed=1))


def test_the_smallest_share_has_every_class():
    cases = images(400, 100)
    assert labels_of(cases, label_share(cases, range(500), 0.001, seed=0)) == {"benign": 1, "malignant": 1}


def test_a_splits_name_depends_on_the_test_part_and_its_labels_alone():
    cases = images(4, 4)
    name = split_hash(cases, Split((0, 1), (2,), (3, 4)))
    assert name == split_hash(cases, Split((2, 1), (0,), (4, 3)))
    assert name != split_hash(cases, Split((0, 1), (2,), (3, 5)))
    relabelled = [Case(case.key, case.path, "benign") for case in cases]
    assert name != split_hash(relabelled, Split((0, 1), (2,), (3, 4)))


def test_patients_in_two_released_parts_are_told():
    cases = images(2, 2, patients=lambda number: "p", split=lambda number: "test" if number else "train")
    assert crossing_patients(cases) == {"p": {"train", "test"}}


def test_clips_in_two_released_parts_are_told():
    cases = [Case(f"{n}", Path(), "a", f"p{n}", split, video="v") for n, split in enumerate(("train", "val", None))]
    assert crossing_clips(cases) == {"v": {"train", "val"}}
    assert crossing_clips(cases[1:]) == {}


def test_joined_groups_stay_together_in_every_kind_of_split():
    cases = images(patients=lambda number: f"p{number}")
    groups = [f"pair {number // 2}" for number in range(64)]
    options = SplitOptions(source="drawn", test=0.25, val=0.125)
    released = images(split=lambda number: "test" if number >= 60 else "train")
    shares = [label_share(cases, range(64), fraction, 0, groups) for fraction in (0.3, 0.6)]
    splits = [
        split_cases(cases, options, groups),
        *split_folds(cases, 4, options, groups),
        split_cases(released, SplitOptions(val=0.125), groups),
        *(Split(share, (), ()) for share in shares),
    ]
    for split in splits:
        assert all(
            {groups.index(group), groups.index(group) + 1} <= set(part)
            for part in parts(split)
            for group in {groups[place] for place in part}
        )
