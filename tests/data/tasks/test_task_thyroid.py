from pathlib import Path

import pytest
from PIL import Image

from arl_lightning.data.tasks.custom import Custom
from arl_lightning.data.tasks.registry import task_class
from arl_lightning.data.tasks.task import Task
from arl_lightning.data.tasks.thyroid import Thyroid
from arl_lightning.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40)).save(root / name)


def test_it_is_a_task_of_its_name() -> None:
    task: Task = Thyroid()
    assert task_class("thyroid") is Thyroid
    assert (task.name, task.anatomy, task.metrics) == ("thyroid", "thyroid", ("accuracy", "auroc"))
    assert "not public" in task.where


def test_folders_name_classes_patients_and_parts(tmp_path: Path) -> None:
    touch(tmp_path, "train/benign/p1/a.png", "train/Malignant/b.jpg", "test/malignant/p2/c.png", "val/benign/d.png")
    listing = Thyroid(tmp_path).listing()
    assert listing.findings == ()
    assert (listing.classes, listing.positive) == (("benign", "malignant"), "malignant")
    assert [(case.key, case.label, case.patient, case.split) for case in listing.cases] == [
        ("test/malignant/p2/c.png", "malignant", "p2", "test"),
        ("train/Malignant/b.jpg", "malignant", None, "train"),
        ("train/benign/p1/a.png", "benign", "p1", "train"),
        ("val/benign/d.png", "benign", None, "val"),
    ]


def test_folders_without_parts_leave_the_split_to_a_draw(tmp_path: Path) -> None:
    touch(tmp_path, "benign/a.png", "malignant/p1/b.png", "malignant/.hidden.png")
    listing = Thyroid(tmp_path).listing()
    assert [(case.key, case.patient, case.split) for case in listing.cases] == [
        ("benign/a.png", None, None),
        ("malignant/p1/b.png", "p1", None),
    ]
    assert listing.findings == ()


def test_a_folder_of_another_class_is_refused_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "benign/a.png", "malignant/b.png", "goitre/c.png", "goitre/p3/d.png")
    listing = Thyroid(tmp_path).listing()
    (finding,) = listing.findings
    assert finding.stops
    assert finding.path == tmp_path / "goitre"
    assert finding.reason.startswith("2 images of no known class; rename the folder to one of benign, malignant")
    assert len(listing.cases) == 2


def test_what_lies_too_deep_or_beside_the_parts_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "train/benign/a.png", "test/malignant/b.png", "train/benign/p/visit/c.png", "benign/d.png")
    listing = Thyroid(tmp_path).listing()
    assert [(finding.path.name, finding.kind) for finding in listing.findings] == [
        ("c.png", "note"),
        ("d.png", "inconsistent"),
    ]
    assert "1 image in no part" in listing.findings[1].reason
    assert listing.findings[1].whole  # leaving one out would leave others


def test_links_that_lead_back_name_no_patients_and_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "benign/a.png", "benign/p1/b.png", "malignant/c.png")
    for name, target in (
        ("benign/loop", "."),
        ("benign/p1/deep", "../.."),
        ("malignant/up", ".."),
        ("round", "."),
        ("self", "self"),
    ):
        (tmp_path / name).symlink_to(target)
    listing = Custom(tmp_path).listing()
    assert listing.classes == ("benign", "malignant")
    assert [(case.key, case.patient) for case in listing.cases] == [
        ("benign/a.png", None),
        ("benign/p1/b.png", "p1"),
        ("malignant/c.png", None),
    ]


def test_a_file_is_listed_once_under_its_own_name_whatever_links_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "benign/p2/a.png", "malignant/c.png")
    (tmp_path / "benign/0.png").symlink_to("p2/a.png")
    (tmp_path / "benign/p1").symlink_to("p2")
    (tmp_path / "malignant/p9").symlink_to("../benign/p2")  # another class: its picture is found there
    (tmp_path / "link").symlink_to(tmp_path)
    for root in (tmp_path, tmp_path / "link"):
        listing = Thyroid(root).listing()
        assert [(case.key, case.patient) for case in listing.cases] == [
            ("benign/p2/a.png", "p2"),
            ("malignant/c.png", None),
            ("malignant/p9/a.png", "p9"),
        ]
        (finding,) = listing.findings
        assert (finding.path, finding.kind) == (root / "benign/0.png", "note")
        assert finding.reason.startswith("2 links to a listed image")


def test_a_table_in_the_root_is_read_and_a_given_one_instead_of_it(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/b.png")
    (tmp_path / "labels.csv").write_text("image,label,patient\nimages/a.png,benign,1\nimages/b.png,malignant,2\n")
    assert [(case.key, case.label) for case in Thyroid(tmp_path).listing().cases] == [
        ("images/a.png", "benign"),
        ("images/b.png", "malignant"),
    ]
    other = tmp_path / "other.csv"
    other.write_text("image,label\nimages/b.png,benign\n")
    assert [(case.key, case.label) for case in Thyroid(tmp_path, other).listing().cases] == [("images/b.png", "benign")]


def test_a_folder_without_images_of_a_class_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    with pytest.raises(UserError, match=r"holds no image in a folder of a class; --root names <class>/"):
        Thyroid(tmp_path).listing()
    with pytest.raises(UserError, match=r"lost: no such folder; --root names one that holds .*not public"):
        Thyroid(tmp_path / "lost").listing()
    touch(tmp_path, "images/a.png", "masks/a.png")
    with pytest.raises(UserError, match=r"holds no folder benign or malignant, only images, masks; --root names"):
        Thyroid(tmp_path).listing()
