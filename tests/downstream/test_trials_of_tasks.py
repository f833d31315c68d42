from pathlib import Path

import pytest
from made_set import words, write_set
from PIL import Image

from arl_lightning.data.tasks.case import Case
from arl_lightning.data.tasks.splits import SplitOptions
from arl_lightning.downstream import command
from arl_lightning.downstream.command import parse
from arl_lightning.downstream.experiment import run_recipe
from arl_lightning.downstream.material import open_material
from arl_lightning.downstream.recipe import Recipe
from arl_lightning.downstream.reports import start_report
from arl_lightning.downstream.trials import trials
from arl_lightning.errors import UserError


def cases_of(*parts: tuple[str, str, int]) -> list[Case]:
    """Return so many cases of a label in a part, for each triple."""
    return [
        Case(f"{part}/{label}/{number}", Path(f"/set/{part}/{label}/{number}"), label, split=part)  # type: ignore[arg-type]
        for part, label, num in parts
        for number in range(num)
    ]


def test_pairs_stay_together_in_every_trial() -> None:
    cases = [Case(f"{number:02}", Path(f"{number:02}"), "ab"[number % 2]) for number in range(48)]
    groups = [f"{number % 24}" for number in range(48)]  # case n and case n + 24
    for recipe in (
        Recipe("custom", split=SplitOptions("drawn", 0.25, 0.25), fraction=(0.5, 1.0), seeds=(0, 1)),
        Recipe("custom", split=SplitOptions("drawn", 0.25, 0.25), folds=3),
    ):
        for trial in trials(cases, recipe, groups):
            for part in (trial.split.train, trial.split.val, trial.split.test):
                assert {(place + 24) % 48 for place in part} == set(part)


def test_a_class_without_a_training_case_is_refused_and_one_without_a_test_case_noted() -> None:
    both = [(part, label, 3) for part in ("train", "val") for label in ("a", "b")]
    lacking = [*(each for each in both if each != ("train", "b", 3)), ("test", "a", 2), ("test", "b", 2)]
    with pytest.raises(UserError, match=r"^/set: class b has no training case; add some, draw another split"):
        trials(cases_of(*lacking), Recipe("custom"), classes=("a", "b"))
    assert trials(cases_of(*lacking), Recipe("custom"))[0].notes == ()  # masks are learnt, not classes
    (trial,) = trials(cases_of(*both, ("test", "a", 2)), Recipe("custom"), classes=("a", "b"))
    assert [note.reason for note in trial.notes] == ["class b has no case in test, whose metrics say nothing of it"]


def test_a_run_says_which_class_its_test_part_lacks_and_refuses_one_it_cannot_learn(tmp_path: Path) -> None:
    table = write_set(tmp_path / "set")
    header, *rows = table.read_text().splitlines()
    for missing, part in (("test", "bright"), ("train", "bright")):
        parts = ["test"] * 16 + ["val"] * 8 + ["train"] * 24
        kept = [
            f"{row},{each}"
            for row, each in zip(rows, parts, strict=True)
            if (each, row.split(",")[1]) != (missing, part)
        ]
        table.write_text("\n".join([f"{header},split", *kept]) + "\n")
        recipe = parse("knn", words(table, tmp_path / missing, "--checkpoint", "pixels"))
        said: list[str] = []
        if missing == "train":
            with pytest.raises(UserError, match="class bright has no training case"):
                run_recipe("knn", command.PROTOCOLS["knn"], recipe, said.append)
            assert not (tmp_path / missing).exists()
            continue
        material = open_material(recipe, with_masks=False)
        planned = trials(material.listing.cases, recipe, material.images.groups, material.listing.classes)
        report = start_report(material, planned, "knn")
        assert f"note            {tmp_path}/set/images: class bright has no case in test, whose" in report


def test_one_picture_of_two_patients_is_in_one_part_of_a_run(tmp_path: Path) -> None:
    table = write_set(tmp_path / "set")
    for number in range(0, 24, 4):  # the first image of patients 0, 2, ... of one class becomes a later patient's
        source = tmp_path / "set/images" / f"{number:02d}.png"
        Image.open(source).save(tmp_path / "set/images" / f"{number + 24:02d}.png")
    recipe = parse("knn", words(table, tmp_path / "out", "--split.test", "16", "--checkpoint", "pixels"))
    material = open_material(recipe, with_masks=False)
    keys = [case.key for case in material.listing.cases]
    for trial in trials(material.listing.cases, recipe, material.images.groups, material.listing.classes):
        for part in (trial.split.train, trial.split.val, trial.split.test):
            names = {keys[place] for place in part}
            for number in range(0, 24, 4):
                assert (f"images/{number:02d}.png" in names) == (f"images/{number + 24:02d}.png" in names)


def test_a_half_filled_split_is_refused_though_damage_may_be_left_out(tmp_path: Path) -> None:
    table = write_set(tmp_path / "set")
    header, *rows = table.read_text().splitlines()
    table.write_text(
        "\n".join([f"{header},split", *(f"{row},{'test' if place < 9 else ''}" for place, row in enumerate(rows))])
    )
    recipe = parse("knn", words(table, tmp_path / "out", "--checkpoint", "pixels", "--skip_damaged", "true"))
    with pytest.raises(UserError, match=r"table\.csv: column split: empty in 39 rows .* --skip_damaged cannot mend it"):
        open_material(recipe, with_masks=False)


def test_masks_may_be_learnt_though_damage_leaves_a_class_with_one_image(tmp_path: Path) -> None:
    table = write_set(tmp_path / "set", num_images=8, per_patient=1)
    for number in (1, 3, 5):  # of the bright ones 7 is left
        (tmp_path / "set/images" / f"{number:02d}.png").write_bytes(b"")
    more = ("--skip_damaged", "true", "--options.structures", "[square]")
    recipe = parse("segment", words(table, tmp_path / "out", *more))
    assert len(open_material(recipe, with_masks=True).listing.cases) == 5
    with pytest.raises(UserError, match="after 3 cases were left out, class bright has 1 sample"):
        open_material(recipe, with_masks=False)
