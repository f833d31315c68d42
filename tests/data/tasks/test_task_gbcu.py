import dataclasses
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from arl_lightning.data.tasks.case import Listing
from arl_lightning.data.tasks.gbcu import Gbcu
from arl_lightning.data.tasks.splits import SplitOptions, crossing_patients, split_cases
from arl_lightning.data.tasks.task import Task
from arl_lightning.errors import UserError

RELEASED = {"train": (401, 509, 223), "test": (31, 49, 42)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The released lists' sizes, with empty images numbered through: listing decodes nothing."""
    root = tmp_path_factory.mktemp("gbcu")
    (root / "imgs").mkdir()
    number = 0
    for part, sizes in RELEASED.items():
        lines = []
        for label, size in enumerate(sizes):
            for _ in range(size):
                number += 1
                lines.append(f"im{number:05d}.jpg,{label}\n")
                (root / "imgs" / f"im{number:05d}.jpg").touch()
        (root / f"{part}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def small(tmp_path) -> Path:
    """Three images for training and one for testing."""
    (tmp_path / "imgs").mkdir()
    for number in range(1, 5):
        (tmp_path / "imgs" / f"im{number:05d}.jpg").touch()
    (tmp_path / "train.txt").write_text("im00003.jpg,2\nim00001.jpg,0\n im00002.jpg , 1 \n")
    (tmp_path / "test.txt").write_text("im00004.jpg,1\n")
    return tmp_path


def counts(listing: Listing) -> dict[str | None, int]:
    return dict(Counter(case.label for case in listing.cases))


def notable(listing: Listing) -> list[tuple[str, str, str]]:
    """Everything but that the miniature has not the released counts."""
    return [(f.path.name, f.kind, f.reason) for f in listing.findings if "released are" not in f.reason]


def test_the_released_lists_give_three_classes_and_their_own_split(whole):
    listing = Gbcu(whole).listing()
    assert listing.findings == ()
    assert counts(listing) == {"normal": 432, "benign": 558, "malignant": 265}
    assert (listing.classes, listing.positive) == (("normal", "benign", "malignant"), None)
    split = split_cases(listing.cases, SplitOptions())
    assert len(split.test) == 122
    assert Counter(listing.cases[place].label for place in split.test) == {"normal": 31, "benign": 49, "malignant": 42}
    assert len(split.train) + len(split.val) == 1133


def test_tumour_joins_benign_and_malignant_as_the_paper_does(whole):
    listing = Gbcu(whole, classes="tumour").listing()
    assert counts(listing) == {"normal": 432, "tumour": 823}
    assert (listing.classes, listing.positive) == (("normal", "tumour"), "tumour")


def test_a_case_is_of_the_list_that_names_it(small):
    cases = Gbcu(small, partial=True).listing().cases
    assert [(case.key, case.label, case.split) for case in cases] == [
        ("imgs/im00001.jpg", "normal", "train"),
        ("imgs/im00002.jpg", "benign", "train"),
        ("imgs/im00003.jpg", "malignant", "train"),
        ("imgs/im00004.jpg", "benign", "test"),
    ]
    assert cases[0].path == small / "imgs/im00001.jpg"
    assert {(case.patient, case.video, case.masks) for case in cases} == {(None, None, ())}


def test_a_folder_named_otherwise_gives_the_same_keys(small):
    before = [case.key for case in Gbcu(small, partial=True).listing().cases]
    (small / "imgs").rename(small / "imgsQ")
    after = Gbcu(small, partial=True).listing().cases
    assert [case.key for case in after] == before
    assert after[0].path == small / "imgsQ/im00001.jpg"


def test_counts_that_differ_from_the_release_stop_unless_accepted(whole, tmp_path):
    root = shutil.copytree(whole, tmp_path / "cut", copy_function=os.link)
    lines = (root / "test.txt").read_text().splitlines(keepends=True)
    (root / "test.txt").unlink()
    (root / "test.txt").write_text("".join(lines[:100]))
    (finding, note) = Gbcu(root).listing().findings
    assert (finding.path, finding.kind) == (root / "test.txt", "inconsistent")
    assert "names 31 normal, 49 benign, 20 malignant images; released are 31 normal, 49 benign, 42" in finding.reason
    assert (note.kind, note.reason) == ("note", "22 images in neither list, such as im01234.jpg: left out")
    assert not any(finding.stops for finding in Gbcu(root, partial=True).listing().findings)


def test_a_listed_image_that_is_absent_stops_unless_accepted(small):
    (small / "imgs/im00002.jpg").unlink()
    fix = "named in train.txt; copy it there, or accept a part with --options.partial true"
    assert notable(Gbcu(small).listing()) == [("im00002.jpg", "missing", fix)]
    listing = Gbcu(small, partial=True).listing()
    assert notable(listing) == [("im00002.jpg", "note", "named in train.txt")]
    assert counts(listing) == {"normal": 1, "benign": 1, "malignant": 1}


@pytest.mark.parametrize(("part", "line"), [("test", "im00001.jpg,0"), ("train", "im00001.jpg,2")])
def test_an_image_that_two_lines_name_is_found(small, part, line):
    path = small / f"{part}.txt"
    path.write_text(f"{path.read_text()}{line}\n")
    reason = f"{part}.txt names it, and train.txt before; delete one of the lines"
    assert notable(Gbcu(small, partial=True).listing()) == [("im00001.jpg", "inconsistent", reason)]


@pytest.mark.parametrize(
    "line", ["im00001.jpg", "im00001.jpg;0", ",0", "im00001.jpg,benign", "im00001.jpg,3", "../im00001.jpg,0", "a.jpg,"]
)
def test_a_line_of_another_form_or_label_is_refused(small, line):
    (small / "train.txt").write_text(f"im00003.jpg,1\n{line}\n")
    with pytest.raises(UserError, match=rf"train\.txt: '{line}' is not of the form im00001\.jpg,0"):
        Gbcu(small).listing()


@pytest.mark.parametrize("entry", ["imgs", "train.txt", "test.txt"])
def test_a_missing_entry_is_named_with_where_to_ask(small, entry):
    (small / entry).rename(small / "elsewhere")
    with pytest.raises(UserError, match=rf"{entry}: missing; .*IIT Delhi"):
        Gbcu(small).listing()


def test_an_empty_folder_or_list_is_refused(small):
    for path in (small / "imgs").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="imgs: holds no image of GBCU"):
        Gbcu(small, partial=True).listing()
    (small / "test.txt").write_text("\n")
    with pytest.raises(UserError, match=r"test\.txt: names nothing"):
        Gbcu(small).listing()


def test_patients_of_the_user_are_taken_and_crossing_ones_can_be_told(small, tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("image,patient\nim00001.jpg,7\nimgs/im00002.jpg,8\nim00003.jpg,9\nim00004.jpg,7\nother.jpg,1\n")
    listing = Gbcu(small, patients=table, partial=True).listing()
    assert notable(listing) == []
    assert [case.patient for case in listing.cases] == ["7", "8", "9", "7"]
    assert crossing_patients(listing.cases) == {"7": {"train", "test"}}


def test_patients_that_are_unknown_or_contradict_are_found(small, tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("image,patient\nim00001.jpg,7\nim00001.jpg,8\nim00002.jpg,nan\nim00004.jpg,\n")
    listing = Gbcu(small, patients=table, partial=True).listing()
    assert notable(listing) == [
        ("im00001.jpg", "inconsistent", "of patient 7 and of 8 by patients.csv; correct it"),
        (
            "patients.csv",
            "inconsistent",
            "names no patient for 3 images, such as im00002.jpg; complete it",
        ),
    ]
    assert [case.patient for case in listing.cases] == ["7", None, None, None]


def test_a_patients_table_without_its_column_is_refused(small, tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("image,person\nim00001.jpg,7\n")
    with pytest.raises(UserError, match=r"patients\.csv: has no column 'patient'"):
        Gbcu(small, patients=table).listing()


def test_a_table_is_read_instead_of_the_lists(small):
    (small / "mine.csv").write_text("image,label\nimgs/im00001.jpg,normal\nimgs/im00002.jpg,tumour\n")
    listing = Gbcu(small, table=small / "mine.csv", classes="tumour").listing()
    assert counts(listing) == {"normal": 1, "tumour": 1}
    assert listing.positive == "tumour"


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(UserError, match="classes: 'two' is unknown; choose from three, tumour"):
        Gbcu(tmp_path, classes="two")


def test_its_fields_are_its_options(tmp_path):
    task: Task = Gbcu(tmp_path)
    names = ["root", "table", "classes", "patients", "crop", "margin", "partial"]
    assert [field.name for field in dataclasses.fields(Gbcu)] == names
    assert (task.name, task.anatomy, task.metrics) == ("gbcu", "gallbladder", ("accuracy", "auroc"))
