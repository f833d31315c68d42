import csv
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from arl_lightning.data.tasks.custom import Custom
from arl_lightning.data.tasks.open import open_task
from arl_lightning.data.tasks.registry import task_class
from arl_lightning.data.tasks.task import Task
from arl_lightning.errors import UserError


def write_table(folder: Path, rows: list[list[str]]) -> Path:
    with (folder / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "mine.csv"


def table_of(folder: Path, *labels: str, header: str = "label") -> Path:
    """Write a table of blank images with these labels, and the images."""
    for place in range(len(labels)):
        Image.new("L", (40, 40)).save(folder / f"{place}.png")
    return write_table(folder, [["image", header], *([f"{place}.png", label] for place, label in enumerate(labels))])


def test_it_is_a_task_of_its_name_and_of_any_anatomy() -> None:
    task: Task = Custom(anatomy="Heart")
    assert task_class("custom") is Custom
    assert (task.name, task.anatomy) == ("custom", "cardiac")
    assert Custom().anatomy == "other"
    with pytest.raises(UserError, match=r"anatomy 'hart' is not in the vocabulary"):
        Custom(anatomy="hart")


def test_metrics_fit_what_the_table_holds(tmp_path: Path) -> None:
    two = Custom(table=table_of(tmp_path, "x", "y"))
    assert two.metrics == ("accuracy", "auroc", "sensitivity", "specificity")
    three = Custom(table=table_of(tmp_path, "x", "y", "z"))
    assert three.metrics == ("top1", "top3", "macro_f1")
    masks = Custom(table=table_of(tmp_path, "0.png", "1.png", header="mask"), structures=("lesion",))
    assert masks.metrics == ("dice", "iou", "hd95")


def test_the_positive_class_is_the_named_one_or_the_last_with_a_note(tmp_path: Path) -> None:
    table = table_of(tmp_path, "sick", "well")
    named, silent = Custom(table=table, positive="sick").listing(), Custom(table=table).listing()
    assert (named.positive, named.findings) == ("sick", ())
    assert silent.positive == "well"
    assert [(finding.path, finding.kind) for finding in silent.findings] == [(table, "note")]
    assert silent.findings[0].reason == "'well' is taken as the positive class; set positive if it is 'sick'"


def test_named_classes_are_the_vocabulary_in_their_order(tmp_path: Path) -> None:
    table = table_of(tmp_path, "well", "Sick", "wel")
    listing = Custom(table=table, classes=("well", "sick")).listing()
    assert (listing.classes, listing.positive) == (("well", "sick"), "sick")
    assert listing.findings[0].reason == "line 4, column label: 'wel' is no class; did you mean 'well'?"
    assert [case.label for case in listing.cases] == ["well", "sick"]
    with pytest.raises(UserError, match=r"classes \['x', 'X'\]: name two or more that differ not in case alone"):
        Custom(classes=("x", "X"))


def test_structures_need_a_column_of_masks_and_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"structures lesion: the table has no column mask; add it"):
        Custom(table=table_of(tmp_path, "x", "y"), structures=("lesion",)).listing()
    with pytest.raises(UserError, match=r"structures \['a', 'a'\]: must be distinct"):
        Custom(structures=("a", "a"))


def test_folders_make_a_task_without_a_table(tmp_path: Path) -> None:
    for label in ("x", "y", "z"):
        (tmp_path / label).mkdir()
        Image.new("L", (40, 40)).save(tmp_path / label / "a.png")
    assert Custom(tmp_path).listing().classes == ("x", "y", "z")


def test_real_views_of_the_heart_become_a_task_by_a_table(ultrasound_data: Path, tmp_path: Path) -> None:
    root = ultrasound_data / "camus_jpg/Cardiac-Acquisitions/test"
    rows = []
    for path in sorted((root / "images").iterdir()):
        patient, view, _ = path.stem.split("_")
        rows.append([f"images/{path.name}", view, patient, f"masks/{path.name}"])
    table = write_table(tmp_path, [["image", "label", "patient", "mask"], *rows])
    task = Custom(root, table, "cardiac", positive="4CH", structures=("left heart",))
    listing = task.listing()
    assert listing.findings == ()
    assert Counter(case.label for case in listing.cases) == {"2CH": 60, "4CH": 60}
    assert listing.cases[0].key == "images/patient0011_2CH_ED.jpg"
    assert listing.cases[0].group == "patient patient0011"
    assert all(case.masks == (root / "masks" / case.path.name,) for case in listing.cases)


def test_real_bowel_walls_become_a_segmentation_by_a_table(ultrasound_data: Path, tmp_path: Path) -> None:
    root = ultrasound_data / "c-trus"
    with (root / "c-trus.csv").open() as file:
        known = [(row["file"], row["patient"]) for row in csv.DictReader(file)]
    rows = [[f"original/{name}", f"labels/{name}", patient] for name, patient in known]
    listing = Custom(
        root, write_table(tmp_path, [["image", "mask", "patient"], *rows]), structures=("bowel wall",)
    ).listing()
    assert listing.findings == ()
    assert (len(listing.cases), listing.classes, listing.structures) == (180, (), ("bowel wall",))
    assert len({case.group for case in listing.cases}) == 13


def test_a_released_split_of_real_gallbladders_is_kept(ultrasound_data: Path, tmp_path: Path) -> None:
    root, rows = ultrasound_data / "gallbladder_ba/data", []
    for folder, split in (("training_data", "training"), ("test_data", "test")):
        with (root / folder / "label.csv").open() as file:
            rows += [
                [f"{folder}/{name}", label, f"{split} {name.split('_')[0]}", split] for name, label in csv.reader(file)
            ]
    task = Custom(
        root, write_table(tmp_path, [["image", "label", "patient", "split"], *rows]), "gallbladder", positive="0"
    )
    listing = task.listing()
    assert listing.findings == ()
    counts = Counter((case.split, case.label) for case in listing.cases)
    assert counts == {("train", "0"): 156, ("train", "1"): 150, ("test", "0"): 100, ("test", "1"): 100}


def test_a_given_root_is_heeded_beside_a_table_though_it_is_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(tmp_path, "x", "y")
    (tmp_path / "elsewhere").mkdir()
    table = table.rename(tmp_path / "elsewhere" / table.name)
    monkeypatch.chdir(tmp_path)
    for given in (".", "./", str(tmp_path)):
        listing = open_task("custom", Path(given), table, {}).listing()
        assert [case.key for case in listing.cases] == ["0.png", "1.png"]
    with pytest.raises(UserError, match=r"none of the files it names \(2\) is below .*elsewhere"):
        open_task("custom", None, table, {}).listing()


def test_a_folder_that_must_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=rf"^{tmp_path}: must not be read; grant access to it"):
        Custom(tmp_path).listing()
