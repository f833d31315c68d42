from pathlib import Path
from typing import Any, Literal

import pytest

from arl_lightning.arguments import call, new_parser, normalised, positional, wanted
from arl_lightning.errors import UserError


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
    short_side: int | Literal["keep"] | None = None,
    num_workers: int = 0,
    size: tuple[int, int] | None = None,
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
        (["--words", "[a,", "b]"], "words", ("a", "b")),
        (["--words", "a"], "words", ("a",)),
        (["--words=*_mask*"], "words", ("*_mask*",)),
        (["--words=x=DIR"], "words", ("x=DIR",)),
        (["--words=[a, b]"], "words", ("a", "b")),
        (["--words", "[ab]*.png"], "words", ("[ab]*.png",)),
        (["--words=null"], "words", None),
        (["--out", "some folder"], "out", Path("some folder")),
        (["--out=some folder"], "out", Path("some folder")),
        (["--weights", "{lung: 2, liver: 0.5}"], "weights", {"lung": 2.0, "liver": 0.5}),
        (["--weights", "{lung:", "2,", "liver:", "0.5}"], "weights", {"lung": 2.0, "liver": 0.5}),
        (["--weights", "lung=2", "liver=0.5"], "weights", {"lung": 2.0, "liver": 0.5}),
        (["--weights=lung=2"], "weights", {"lung": 2.0}),
        (["--weights.lung=2"], "weights", {"lung": 2.0}),
        (["--short-side", "keep"], "short_side", "keep"),
        (["--num-workers", "3"], "num_workers", 3),
        (["--size", "64", "48"], "size", (64, 48)),
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
    with pytest.raises(UserError, match=r"^4: one word too many"):
        call(two, "program", ["x", "3", "4"])


@pytest.mark.parametrize("option", [["--out", "folder"], ["--workers", "3"], ["--kind", "a"], ["--weights", "a=1"]])
def test_a_word_behind_an_options_value_is_no_part_of_it(option):
    with pytest.raises(UserError, match=r"two\.yaml"):
        call(function, "program", [*option, "two.yaml"])


def test_dashes_and_underscores_are_the_same():
    assert normalised(["--num-workers=3"], [function]) == ["--num_workers=3"]
    assert normalised(["--num-workers", "3", "--short-side=keep"], [function]) == [
        "--num_workers=3",
        "--short_side=keep",
    ]


def test_what_was_brought_to_one_form_stays_as_it_is():
    once = normalised(["a", "b", "--words=*", "--weights", "lung=2", "--check", "--out", "x", "--wrong=1"], [function])
    assert normalised(once, [function]) == once


def test_the_first_function_decides_what_an_option_of_two_takes():
    def other(weights: tuple[str, ...] = ()) -> None:
        """Clash."""

    assert normalised(["--weights", "lung=2"], [function, other]) == ['--weights={"lung": 2}']


def test_several_words_behind_a_name_of_any_type_are_a_list():
    def other(options: dict[str, Any] | None = None, out: str = "") -> dict:
        return options or {}

    assert call(other, "arl", ["--options.classes", "2CH", "4CH", "--options.kind", "a", "--out", "x"]) == {
        "classes": ["2CH", "4CH"],
        "kind": "a",
    }
    with pytest.raises(UserError, match="3: one word too many"):
        call(function, "arl", ["--weights.lung", "2", "3"])


def test_short_options_and_help_pass():
    assert normalised(["-h"], [function]) == ["-h"]
    assert normalised(["--help"], [function]) == ["--help"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--kind=c"], "--kind c: choose a or b"),
        (["--workers", "many"], "--workers many: must be a whole number"),
        (["--workers", "1.5"], "--workers 1.5: must be a whole number"),
        (["--workers", "null"], "--workers null: must be a whole number"),
        (["--scale", "much"], "--scale much: must be a number"),
        (["--check", "maybe"], "--check maybe: must be true or false"),
        (["--short_side", "big"], "--short_side big: must be a whole number or keep"),
        (["--size", "64"], "--size ['64']: must be 2 words, each a whole number"),
        (["--weights", "3"], "--weights 3: must be NAME=VALUE, each VALUE a number"),
        (["--weights", "lung=two"], "--weights two: must be NAME=VALUE, each VALUE a number"),
        (["--weights", "{lung: 2"], "--weights {lung: 2: must be NAME=VALUE, each VALUE a number"),
        (["--weights", "lung=2", "lung=3"], "--weights lung: given twice"),
        (["--out"], "--out: needs a value"),
        (["--wrokers", "3"], "--wrokers: unknown; did you mean --workers?"),
        (["--num-wrokers=3"], "--num-wrokers: unknown; did you mean --num-workers?"),
        (["--short", "3"], "--short: unknown; did you mean --short_side?"),
        (["--nothing.like_it"], "--nothing.like_it: unknown; --help lists the options"),
        (["-q"], "-q: unknown; --help lists the options"),
    ],
)
def test_what_does_not_fit_is_refused_in_plain_words(typed, said):
    with pytest.raises(UserError) as caught:
        call(function, "program", typed)
    assert str(caught.value) == said


def test_a_missing_argument_is_named():
    def needs(folder: Path) -> None:
        """Need one."""

    with pytest.raises(UserError, match=r"^--folder: missing"):
        call(needs, "program", [])


def test_an_option_that_was_left_out_is_not_suggested():
    parser = new_parser("program", function)
    parser.add_function_arguments(function, skip={"check"})
    with pytest.raises(UserError, match=r"^--check: unknown; --help"):
        parser.parse_args(normalised(["--check"], [function]))


def test_a_note_stands_behind_the_message_about_its_option_alone():
    parser = new_parser("program", function)
    parser.add_function_arguments(function)
    parser.notes["kind"] = "look elsewhere"
    with pytest.raises(UserError, match=r"^--kind c: choose a or b; look elsewhere$"):
        parser.parse_args(["--kind=c"])
    with pytest.raises(UserError, match=r"a whole number$"):
        parser.parse_args(["--workers=c"])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Literal["x"], "choose x"),
        (Literal["x", "y", "z"] | None, "choose x, y or z"),
        (list[str] | str, "must be words or text"),
        (tuple[Literal["2d", "ceus"], ...], "must be words, each 2d or ceus"),
        (Path | None, "must be a path"),
    ],
)
def test_types_are_said_in_words(kind, said):
    assert wanted(kind) == said


@positional("inputs", anywhere=True)
def look(inputs: list[Path], run: str = "", flag: bool = False, many: list[int] = []) -> tuple:  # noqa: B006
    return inputs, run, flag, many


@pytest.mark.parametrize(
    "words",
    [
        ["a", "b", "--run", "r", "--flag", "--many", "1", "2"],
        ["--run", "r", "a", "b", "--flag", "--many", "1", "2"],
        ["--many", "1", "2", "--run=r", "a", "--flag", "b"],
        ["--flag", "true", "a", "b", "--run", "r", "--many=[1, 2]"],
    ],
)
def test_words_may_stand_behind_options_that_take_one(words):
    assert call(look, "arl look", words) == ([Path("a"), Path("b")], "r", True, [1, 2])
