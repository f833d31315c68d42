from pathlib import Path

from arl_lightning.data.tasks.case import Case
from arl_lightning.data.tasks.groups import joined_groups
from arl_lightning.data.tasks.splits import SplitOptions, split_cases, split_folds


def case(key: str, patient: str | None = None, video: str | None = None) -> Case:
    return Case(key, Path(key), "a", patient, video=video)


def test_a_group_that_nothing_joins_keeps_its_own_name() -> None:
    cases = [case("a", "7"), case("b", "7"), case("c", video="7"), case("d"), case("e", "8", "9")]
    assert joined_groups(cases, dict(enumerate([b"1", b"1", b"2", b"3", b"4"]))) == [each.group for each in cases]


def test_a_clip_joins_its_patients_and_the_frames_that_name_none() -> None:
    cases = [case("a", "2", "v"), case("b", None, "v"), case("c", "1", "v"), case("d", "2"), case("e", None, "w")]
    assert joined_groups(cases) == ["patient 1"] * 4 + ["video w"]


def test_a_picture_joins_all_who_have_it_however_long_the_chain() -> None:
    cases = [case(f"{number}", f"{number}") for number in range(6)]
    pictures = [b"x", b"y", b"y", b"z", b"", b""]
    assert joined_groups([*cases, case("6", "0"), case("7", "3")], dict(enumerate([*pictures, b"z", b"y"]))) == [
        *(["patient 0"] * 4),
        "patient 4",  # blank pictures are the same as no other
        "patient 5",
        "patient 0",
        "patient 0",
    ]


def test_the_order_of_cases_does_not_matter() -> None:
    cases = [case(f"{number}", f"p{number * 7 % 10}", f"v{number // 3}") for number in range(10)]
    names = dict(zip([each.key for each in cases], joined_groups(cases), strict=True))
    assert names == dict(zip([each.key for each in cases[::-1]], joined_groups(cases[::-1]), strict=True))


def test_a_clip_whose_frames_name_a_patient_in_part_is_never_torn_by_a_draw() -> None:
    cases = [
        case(f"{clip}#{frame}", f"p{clip}" if frame else None, f"{clip}") for clip in range(20) for frame in (0, 1)
    ]
    options = SplitOptions(source="drawn", test=0.2, val=0.1)
    for split in [split_cases(cases, options), *split_folds(cases, 4, options)]:
        clips = [{cases[place].video for place in part} for part in (split.train, split.val, split.test)]
        assert sum(map(len, clips)) == 20
