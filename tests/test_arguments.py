from pathlib import Path
from typing import Literal

import pytest
from jsonargparse import ArgumentError

from arl_lightning.arguments import call, normalised, positional


@positional("shards")
def function(
    shards: list[str] = [],  # noqa: B006
    out: Path | None = None,
    workers: int = 1,
    scale: float = 1.0,
    check: bool = False,
    words: tuple[str, ...] | None = None,
    kind: Literal["a", "b"] = "a",
    weights: dict[str, float] = {},  # noqa: B006
) -> dict:
    """Return what was given."""
    return locals()


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        (["x", "y z"], "shards", ["x", "y z"]),
        (["x"], "shards", ["x"]),
        (["--check"], "check", True),
        (["--check", "--workers", "3"], "check", True),
        (["--check", "false"], "check", False),
        (["--check=false"], "check", False),
        (["--workers=3"], "workers", 3),
        (["--workers", "3", "--check"], "workers", 3),
        (["--scale", "-0.5"], "scale", -0.5),
        (["--words", "a*", "b"], "words", ("a*", "b")),
        (["--words", '["a", "b"]'], "words", ("a", "b")),
        (["--words", "a"], "words", ("a",)),
        (["--words=null"], "words", None),
        (["--out", "some folder"], "out", Path("some folder")),
        (["--weights", "{lung: 2, liver: 0.5}"], "weights", {"lung": 2.0, "liver": 0.5}),
        (["--weights.lung=2"], "weights", {"lung": 2.0}),
    ],
)
def test_arguments_are_taken_as_people_type_them(typed, name, value):
    assert call(function, "program", typed)[name] == value


def test_words_fill_several_parameters_and_too_many_are_refused():
    @positional("folder", "number")
    def two(folder: Path, number: int = 0) -> tuple:
        """Return both."""
        return folder, number

    assert call(two, "program", ["x"]) == (Path("x"), 0)
    assert call(two, "program", ["x", "3"]) == (Path("x"), 3)
    with pytest.raises(ArgumentError, match="4"):
        call(two, "program", ["x", "3", "4"])


def test_dashes_and_underscores_are_the_same():
    assert normalised(["--num-workers=3", "--a-b", "c-d"], []) == ["--num_workers=3", "--a_b", "c-d"]


def test_short_options_and_help_pass():
    assert normalised(["-h"], [function]) == ["-h"]
    assert normalised(["--help"], [function]) == ["--help"]


@pytest.mark.parametrize("typed", [["--workers", "many"], ["--wrokers", "3"], ["--kind=c"], ["--check", "maybe"]])
def test_what_does_not_fit_is_refused(typed):
    with pytest.raises(ArgumentError):
        call(function, "program", typed)
