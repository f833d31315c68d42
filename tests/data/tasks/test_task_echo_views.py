from pathlib import Path

import pytest
from PIL import Image

from arl_lightning.data.tasks.echo_views import EchoViews
from arl_lightning.data.tasks.registry import task_class
from arl_lightning.data.tasks.task import Task


def test_it_is_a_task_of_its_name() -> None:
    task: Task = EchoViews()
    assert task_class("echo_views") is EchoViews
    assert (task.name, task.anatomy, task.metrics) == ("echo_views", "cardiac", ("top1", "top3", "macro_f1"))


@pytest.mark.parametrize("column", ["view", "label"])
def test_the_table_names_the_views_whatever_its_column_is_called(tmp_path: Path, column: str) -> None:
    lines = [f"image,{column},patient"]
    for place, view in enumerate(["SSN", "PLAX", "A4C", "PLAX"]):
        Image.new("L", (40, 40)).save(tmp_path / f"{place}.png")
        lines.append(f"{place}.png,{view},P{place}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    listing = EchoViews(tmp_path).listing()
    assert (listing.classes, listing.positive, listing.findings) == (("A4C", "PLAX", "SSN"), None, ())
    assert [case.label for case in listing.cases] == ["SSN", "PLAX", "A4C", "PLAX"]


def test_the_folders_name_the_views_and_no_view_is_made_up(tmp_path: Path) -> None:
    for view in ("A2C", "A4C", "PSAX_AV"):
        (tmp_path / view).mkdir()
        Image.new("L", (40, 40)).save(tmp_path / view / "a.png")
    assert EchoViews(tmp_path).listing().classes == ("A2C", "A4C", "PSAX_AV")


def test_spellings_of_one_view_are_found(tmp_path: Path) -> None:
    for view in ("A2C", "a2c", "PLAX"):
        (tmp_path / view).mkdir()
        Image.new("L", (40, 40)).save(tmp_path / view / "a.png")
    (finding,) = EchoViews(tmp_path).listing().findings
    assert finding.stops
    assert finding.reason == "'A2C' and 'a2c' differ in case only; use one of them"
