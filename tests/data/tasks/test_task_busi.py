import dataclasses
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from arl_lightning.data.tasks.busi import Busi, listed_faults
from arl_lightning.data.tasks.case import Finding, Listing
from arl_lightning.data.tasks.images import prepare
from arl_lightning.data.tasks.splits import SplitOptions, split_cases, split_hash
from arl_lightning.data.tasks.task import Task
from arl_lightning.errors import UserError

MANY_MASKS = {"benign": 17, "malignant": 1, "normal": 0}  # images with a second mask
NUM_IMAGES = {"benign": 437, "malignant": 210, "normal": 133}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The released names, of empty files: listing decodes nothing."""
    root = tmp_path_factory.mktemp("busi") / "Dataset_BUSI_with_GT"
    for label, num_images in NUM_IMAGES.items():
        (root / label).mkdir(parents=True)
        for number in range(1, num_images + 1):
            for ending in ("", "_mask", *(["_mask_1"] if number <= MANY_MASKS[label] else [])):
                (root / label / f"{label} ({number}){ending}.png").touch()
    return root


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "copied", copy_function=os.link)


def counts(listing: Listing) -> dict[str | None, int]:
    return dict(Counter(case.label for case in listing.cases))


def kinds(listing: Listing) -> list[tuple[str, str]]:
    return [(finding.path.name, finding.kind) for finding in listing.findings]


def test_two_classes_without_the_listed_faults_are_the_default(whole):
    listing = Busi(whole).listing()
    # 437 - 109 duplicates - 10 conflicts, and 210 - 16 - 7, as busi_faults.csv has them
    assert counts(listing) == {"benign": 318, "malignant": 187}
    assert (listing.classes, listing.positive) == (("benign", "malignant"), "malignant")
    assert listing.structures == ("lesion",)
    note = (
        "left out as busi_faults.csv lists them: 17 conflicting labels, 125 duplicates; --options.faults keep keeps"
        " them"
    )
    assert listing.findings == (Finding(whole, "note", note),)
    left_out = listed_faults()["duplicate"] | listed_faults()["conflict"]
    assert not left_out & {case.path.name for case in listing.cases}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"faults": "keep"}, {"benign": 437, "malignant": 210}),
        ({"faults": "keep", "classes": "three"}, {"benign": 437, "malignant": 210, "normal": 133}),
        ({"classes": "three"}, {"benign": 318, "malignant": 187, "normal": 91}),
        # Of 20 and 7 axilla images 10 and 3 are duplicates or conflicts already.
        ({"axilla": "drop"}, {"benign": 308, "malignant": 183}),
        ({"axilla": "drop", "faults": "keep"}, {"benign": 417, "malignant": 203}),
    ],
)
def test_options_choose_classes_and_faults(whole, options, expected):
    assert counts(Busi(whole, **options).listing()) == expected


def test_three_classes_have_no_positive_one(whole):
    listing = Busi(whole, classes="three").listing()
    assert (listing.classes, listing.positive) == (("benign", "malignant", "normal"), None)


def test_a_case_has_its_masks_and_a_key_below_the_set(whole):
    listing = Busi(whole, faults="keep").listing()
    case = next(case for case in listing.cases if case.key == "benign/benign (12).png")
    assert case.path == whole / "benign/benign (12).png"
    assert [mask.name for mask in case.masks] == ["benign (12)_mask.png", "benign (12)_mask_1.png"]
    assert (case.patient, case.split, case.video) == (None, None, None)
    assert sum(len(case.masks) for case in listing.cases) == 454 + 211
    assert [case.key for case in listing.cases] == sorted(case.key for case in listing.cases)


def test_the_folder_above_serves_as_root_too(whole):
    assert Busi(whole.parent).listing() == Busi(whole).listing()


def test_faults_are_listed_of_released_images_and_the_kept_of_a_group_has_none(whole):
    listed = listed_faults()
    assert {fault: len(names) for fault, names in listed.items()} == {"duplicate": 165, "conflict": 19, "axilla": 27}
    released = {path.name for path in whole.rglob("*.png") if "_mask" not in path.name}
    assert frozenset().union(*listed.values()) <= released
    assert not listed["duplicate"] & listed["conflict"]


def test_a_half_downloaded_set_stops_unless_a_part_is_accepted(copied):
    (copied / "benign/benign (30).png").unlink()
    (copied / "benign/benign (30)_mask.png").unlink()
    (finding, _) = Busi(copied).listing().findings
    assert (finding.path, finding.kind) == (copied / "benign", "missing")
    assert finding.reason.startswith("436 of 437 images and 453 of 454 masks are here; copy the rest there")
    accepted = Busi(copied, partial=True).listing()
    assert kinds(accepted) == [("benign", "note"), ("copied", "note")]
    assert len(accepted.cases) == 504


def test_a_mask_without_image_and_an_image_without_mask_are_found(copied):
    (copied / "malignant/malignant (1).png").unlink()
    (copied / "benign/benign (2)_mask.png").unlink()
    (copied / "benign/benign (2)_mask_1.png").unlink()
    listing = Busi(copied).listing()
    assert kinds(listing)[:-1] == [
        ("benign", "missing"),
        ("benign (2).png", "missing"),
        ("malignant", "missing"),
        ("malignant (1)_mask.png", "missing"),
        ("malignant (1)_mask_1.png", "missing"),
    ]
    assert "a mask without its image, malignant (1).png" in {finding.reason for finding in listing.findings}
    bare = next(case for case in listing.cases if case.key == "benign/benign (2).png")
    assert not bare.has_mask


def test_a_lost_second_mask_is_noticed(copied):
    (copied / "benign/benign (3)_mask_1.png").unlink()
    (finding, _) = Busi(copied).listing().findings
    assert (finding.kind, finding.stops) == ("missing", True)
    assert finding.reason.startswith("437 of 437 images and 453 of 454 masks")


def test_a_file_of_another_name_is_found_and_left_out(copied):
    for name in ("benign (438).png", "benign (1) copy.png"):
        (copied / "benign" / name).touch()
    (copied / "benign/.hidden.png").touch()
    listing = Busi(copied, partial=True).listing()
    assert kinds(listing)[:2] == [("benign (1) copy.png", "inconsistent"), ("benign (438).png", "inconsistent")]
    assert counts(listing) == {"benign": 318, "malignant": 187}


def test_a_wrong_root_is_refused_with_where_to_ask(copied, tmp_path):
    with pytest.raises(UserError, match=r"absent: no such folder; .*Cairo University"):
        Busi(tmp_path / "absent").listing()
    shutil.rmtree(copied / "malignant")
    with pytest.raises(UserError, match=r"malignant: missing; .*Cairo University"):
        Busi(copied).listing()


def test_normal_images_are_not_asked_for_where_they_are_not_used(copied):
    shutil.rmtree(copied / "normal")
    assert len(Busi(copied).listing().cases) == 505
    with pytest.raises(UserError, match="normal: missing"):
        Busi(copied, classes="three").listing()


def test_empty_folders_are_refused(tmp_path):
    for label in ("benign", "malignant"):
        (tmp_path / label).mkdir()
    with pytest.raises(UserError, match="holds no image of BUSI"):
        Busi(tmp_path, partial=True).listing()


@pytest.mark.parametrize("option", ["classes", "faults", "axilla"])
def test_an_unknown_choice_is_refused(whole, option):
    with pytest.raises(UserError, match=f"{option}: 'all' is unknown; choose from"):
        Busi(whole, **{option: "all"})


def test_a_table_is_read_instead_of_the_folders(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    (tmp_path / "mine.csv").write_text("image,label,patient\na.png,benign,1\nb.png,malignant,2\n")
    listing = Busi(tmp_path, table=tmp_path / "mine.csv").listing()
    assert [(case.key, case.label, case.patient) for case in listing.cases] == [
        ("a.png", "benign", "1"),
        ("b.png", "malignant", "2"),
    ]
    assert listing.positive == "malignant"


def test_its_fields_are_its_options(whole):
    task: Task = Busi(whole)
    names = [field.name for field in dataclasses.fields(Busi)]
    assert names == ["root", "table", "classes", "faults", "axilla", "partial"]
    assert (task.name, task.anatomy) == ("busi", "breast")
    assert task.metrics == ("accuracy", "auroc", "sensitivity", "specificity")


def test_the_real_set_is_whole_and_splits_in_proportion(ultrasound_data):
    assert Busi(ultrasound_data / "busi", faults="keep", classes="three").listing().findings == ()
    listing = Busi(ultrasound_data / "busi").listing()
    assert counts(listing) == {"benign": 318, "malignant": 187}
    assert {len(case.masks) for case in listing.cases} <= {1, 2, 3}
    split = split_cases(listing.cases, SplitOptions())
    assert [len(part) for part in (split.train, split.val, split.test)] == [354, 50, 101]
    assert Counter(listing.cases[place].label for place in split.test) == {"benign": 64, "malignant": 37}


def test_the_recipes_split_of_the_real_set_is_not_moved_by_identical_pictures(ultrasound_data):
    listing = Busi(ultrasound_data / "busi").listing()
    images, _ = prepare(listing, 32, 1, with_masks=False, show_progress=False)
    assert len(images.pictures) == 505
    assert images.groups == [case.group for case in listing.cases]
    split = split_cases(listing.cases, SplitOptions("drawn", test=142, val=50, seed=0), images.groups)
    assert split_hash(listing.cases, split) == "65219f4bd0dcec6e"
