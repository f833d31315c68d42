"""A task's files are reported on, and training refuses what would spoil it."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_task import MadeTask, listing_of, write_cases, write_image

from arl_lightning.data.tasks import check, open
from arl_lightning.data.tasks.case import Case, Finding, Listing
from arl_lightning.data.tasks.check import (
    check_task,
    refuse_damage,
    tasks_check,
    typed_options,
    without_damage,
    write_findings,
)
from arl_lightning.data.tasks.consistency import duplicate_findings, listing_findings, part_findings
from arl_lightning.data.tasks.images import prepare
from arl_lightning.data.tasks.splits import Split
from arl_lightning.errors import UserError


def found(cases: list[Case], **options: bool) -> list[Finding]:
    return prepare(listing_of(cases), 32, 1, False, show_progress=False, **options)[1]  # type: ignore[arg-type]


def case(key: str, label: str = "benign", **details: object) -> Case:
    return Case(key, Path("/set") / key, label, **details)  # type: ignore[arg-type]


def test_one_picture_with_two_labels_names_both_files(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 6)
    cases[3].path.write_bytes(cases[0].path.read_bytes())
    findings = found(cases)
    assert [(finding.path, finding.kind) for finding in findings] == [
        (cases[0].path, "inconsistent"),
        (cases[3].path, "inconsistent"),
    ]
    assert "the same picture as 003.png, which is malignant where this is benign" in findings[0].reason


def test_a_picture_is_recognised_in_another_format_and_in_colour(tmp_path: Path, speckle) -> None:
    cases = write_cases(tmp_path, 6)
    pixels = speckle(40, 48, seed=0)  # as of case 0
    rgb = write_image(tmp_path / "copy.bmp", np.repeat(pixels[..., None], 3, axis=2))
    (finding,) = found([*cases, Case("copy.bmp", rgb, "benign")])
    assert (finding.kind, finding.path) == ("note", rgb)


def test_one_picture_in_two_parts_names_the_file_outside_the_test_part() -> None:
    cases = [case("a", split="train"), case("b", split="test"), case("c", split="val"), case("d", split="test")]
    pictures = dict.fromkeys(range(4), b"x")
    findings = duplicate_findings(cases, pictures)
    assert [(str(each.path), each.kind) for each in findings] == [
        ("/set/a", "inconsistent"),
        ("/set/c", "inconsistent"),
        ("/set/d", "note"),
    ]
    assert {each.kind for each in duplicate_findings(cases, pictures, released=False)} == {"note"}


def test_frames_of_one_clip_and_blank_pictures_may_be_alike(tmp_path: Path) -> None:
    frames = [case(f"clip#{frame}", video="clip", frame=frame) for frame in range(3)]
    assert duplicate_findings(frames, dict.fromkeys(range(3), b"x")) == []
    cases = write_cases(tmp_path, 6)
    for blank in cases[:2]:  # of two classes
        write_image(blank.path, np.zeros((40, 48), np.uint8))
    assert [(each.kind, each.reason) for each in found(cases)] == [
        ("note", "000.png is blank"),
        ("note", "001.png is blank"),
    ]


def test_a_patient_in_two_parts_is_found_where_parts_matter() -> None:
    cases = [
        case("a", patient="7", split="train"),
        case("b", patient="7", split="test"),
        *(case(f"m{number}", "malignant", patient=f"9{number}", split="train") for number in range(2)),
        case("c", patient="8", split="val"),
    ]
    (finding,) = listing_findings(listing_of(cases))
    assert (finding.path, finding.kind) == (Path("/set/a"), "inconsistent")
    assert "patient 7 is in test too" in finding.reason
    assert listing_findings(listing_of(cases), released=False) == []


def test_a_clip_in_two_parts_is_found_whether_or_not_its_patient_is_known() -> None:
    rows = [
        ("a#1", "v", None, "train"),
        ("a#2", "v", None, "test"),
        ("b#1", "w", "1", "train"),
        ("c#1", "w", None, "val"),
    ]
    cases = [case(key, video=video, patient=patient, split=part) for key, video, patient, part in rows]
    findings = listing_findings(listing_of(cases), classes=False)
    assert [(finding.path, finding.kind) for finding in findings] == [
        (Path("/set/a#1"), "inconsistent"),
        (Path("/set/b#1"), "inconsistent"),
    ]
    assert findings[1].reason == "clip w is in val too, this in train; draw a split, or leave it out"
    both = [case("a", patient="1", video="v", split="train"), case("b", patient="1", video="v", split="test")]
    assert len(listing_findings(listing_of(both), classes=False)) == 1  # the patient says it
    assert listing_findings(listing_of(cases), classes=False, released=False) == []


def test_a_clip_of_two_patients_is_found_however_it_is_split() -> None:
    rows = [
        ("a#1", "v", "1"),
        ("a#2", "v", "2"),
        ("a#3", "v", None),
        ("b#1", "w", "1"),
        ("b#2", "w", None),
        ("c", None, "3"),
    ]
    cases = [case(key, video=video, patient=patient) for key, video, patient in rows]
    findings = listing_findings(listing_of(cases), classes=False, released=False)
    assert [(finding.path.name, finding.kind) for finding in findings] == [
        (f"a#{frame}", "inconsistent") for frame in (1, 2, 3)
    ]
    assert findings[0].reason.startswith("clip v is of the patients 1 and 2;")


def test_a_class_of_one_picture_alone_is_found_whatever_its_files_are_called(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 6)
    for each in cases[3::2]:
        each.path.write_bytes(cases[1].path.read_bytes())
    findings = [finding for finding in found(cases) if finding.stops]
    assert [finding.reason.partition(" and")[0] for finding in findings] == [
        "class malignant has 3 samples of one patient, clip or picture"
    ]
    for masks in (False, True):
        assert check_task(MadeTask(tmp_path, tuple(cases), structures=("lesion",)), masks).num_stopping == 1


def test_a_class_that_a_part_lacks_stops_a_training_or_is_noted() -> None:
    cases = [case("a"), case("b"), case("c", "malignant"), case("d", "malignant")]
    assert part_findings(cases, Split((0, 2), (1, 2), (1, 3)), ("benign", "malignant")) == []
    findings = part_findings(cases, Split((0, 1), (2, 3), (1,)), ("benign", "malignant"))
    assert [
        (finding.path, finding.stops, finding.reason.partition(",")[0].partition(";")[0]) for finding in findings
    ] == [
        (Path("/set"), True, "class malignant has no training case"),
        (Path("/set"), False, "class benign has no case in val"),
        (Path("/set"), False, "class malignant has no case in test"),
    ]


@pytest.mark.parametrize("num_images", [1, 3])
def test_a_class_of_one_patient_is_found(num_images: int) -> None:
    alone = [case(f"m{number}", "malignant", patient="1") for number in range(num_images)]
    (finding,) = listing_findings(listing_of([case("a"), case("b"), *alone]))
    assert finding.stops
    assert finding.whole
    assert finding.path == Path("/set")
    assert finding.reason.startswith(f"class malignant has {num_images} sample")
    assert listing_findings(listing_of([case("a"), case("b"), *alone]), classes=False) == []


def test_a_class_without_a_case_and_a_label_outside_the_classes_are_found() -> None:
    findings = listing_findings(listing_of([case("a"), case("b"), case("c", "odd")]))
    assert [finding.reason.partition(";")[0] for finding in findings] == [
        "label odd is none of benign, malignant",
        "class malignant has no sample and cannot be split",
    ]


def test_training_is_refused_in_one_line_that_names_the_first_file() -> None:
    findings = [
        Finding(Path("/set/n.png"), "note", "empty mask"),
        Finding(Path("/set/a.png"), "missing", "not there"),
        Finding(Path("/set/b.png"), "unreadable", "empty file"),
    ]
    with pytest.raises(UserError) as refusal:
        refuse_damage(findings, "busi")
    assert str(refusal.value).startswith("/set/a.png: not there and 1 other finding; `arl tasks check busi --root DIR`")
    assert "\n" not in str(refusal.value)
    assert refuse_damage(findings, "busi", allow=True) == {Path("/set/a.png"), Path("/set/b.png")}
    assert refuse_damage(findings[:1], "busi") == set()


def test_what_no_file_can_be_left_out_to_mend_is_refused_though_damage_is_allowed() -> None:
    table = Path("/set/labels.csv")
    findings = [
        Finding(Path("/set/a.png"), "missing", "not there"),
        Finding(table, "inconsistent", "column split: empty in 1 row", whole=True),
        Finding(table, "inconsistent", "two spellings", whole=True),
        Finding(table, "note", "of no concern", whole=True),
    ]
    with pytest.raises(
        UserError, match=r"^/set/labels\.csv: column split: empty in 1 row and 1 other finding; .*cannot"
    ):
        refuse_damage(findings, "busi", allow=True)
    with pytest.raises(
        UserError, match=r"^/set/a\.png: not there and 2 other findings; .* --skip_damaged cannot mend it"
    ):
        refuse_damage(findings, "busi")
    assert refuse_damage([findings[0], findings[3]], "busi", allow=True) == {Path("/set/a.png")}


def test_damaged_files_are_left_out_on_request(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 8)
    mask = tmp_path / "mask.png"
    cases[2] = replace(cases[2], masks=(mask,))
    listing = replace(listing_of(cases), findings=(Finding(tmp_path / "t.csv", "inconsistent", "line 3: odd"),))
    left = without_damage(listing, [cases[0].path, mask])
    assert [each.key for each in left.cases] == [each.key for each in cases if each.key not in ("000.png", "002.png")]
    assert found(list(left.cases)) == []
    assert not any(finding.stops for finding in left.findings)


def test_leaving_out_most_of_a_class_is_refused(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 6)
    with pytest.raises(UserError, match=r": after 2 cases were left out, class malignant has 1 sample of one patient"):
        without_damage(listing_of(cases), [cases[1].path, cases[3].path])
    with pytest.raises(UserError, match=r": after 1 case was left out, class malignant has 2 samples of one patient"):
        without_damage(listing_of(cases), [cases[1].path], {3: b"same", 5: b"same"})
    assert len(without_damage(listing_of(cases), [cases[1].path, cases[3].path], classes=False).cases) == 4
    assert len(without_damage(listing_of(cases), [cases[1].path], {0: b"same", 2: b"same", 3: b"", 5: b""}).cases) == 5
    with pytest.raises(UserError, match="no case is left"):
        without_damage(listing_of(cases), [each.path for each in cases])


def test_the_report_counts_what_is_there(tmp_path: Path) -> None:
    cases = [replace(each, split=("train", "test")[place // 4]) for place, each in enumerate(write_cases(tmp_path, 8))]
    cases[0] = replace(cases[0], patient="1", video="v", outline=((1, 1), (9, 1), (1, 9)))
    report = check_task(MadeTask(tmp_path, tuple(cases), structures=("lesion",)))
    lines = str(report).splitlines()
    assert lines[0] == f"made at {tmp_path}: 8 images, frames of 1 clip among them, 1 patient, unknown for 7"
    assert [line.split() for line in lines[1:4]] == [
        ["class", "images", "train", "test"],
        ["benign", "4", "2", "2"],
        ["malignant", "4", "2", "2", "positive"],
    ]
    assert "median 48x40" in str(report)
    assert "masks      1 of 8 images, of lesion" in str(report)
    assert "missing 0, unreadable 0, inconsistent 0, note 7" in str(report)  # images without a mask
    assert "ask nobody" in lines[-1]
    assert report.num_stopping == 0


def test_the_report_shows_twenty_findings_of_a_kind(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 30)
    for each in cases[:25]:
        each.path.write_bytes(b"")
    report = check_task(MadeTask(tmp_path, tuple(cases)))
    text = str(report)
    assert text.count("empty file") == 20
    assert "and 5 more; --list FILE writes all" in text
    assert report.num_stopping == 25


def test_the_command_prints_and_fails_where_a_training_would_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = write_cases(tmp_path, 8)
    task = MadeTask(tmp_path, tuple(cases))
    monkeypatch.setattr(open, "open_task", lambda *given: task)
    monkeypatch.setattr(check, "typed_options", lambda *given: {})
    assert "8 images" in str(tasks_check("busi", tmp_path))
    cases[5].path.write_bytes(cases[5].path.read_bytes()[:100])
    with pytest.raises(UserError, match="busi: 1 finding would stop a training"):
        tasks_check("busi", tmp_path, list=tmp_path / "found.csv")
    assert "005.png" in capsys.readouterr().out
    with (tmp_path / "found.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [str(cases[5].path)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"{number:03}.png" for number in range(8)),
        "found.csv",
    ]


def test_without_data_the_command_says_where_to_get_it() -> None:
    with pytest.raises(UserError, match=r"task busi: no data; where to get the set: .*Cairo") as refusal:
        tasks_check("busi")
    assert "arl tasks check busi --root DIR" in str(refusal.value.advice)


def test_findings_that_cannot_be_written_are_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--list .*No such file or directory"):
        write_findings(tmp_path / "nowhere/found.csv", [])
    with pytest.raises(UserError, match=r"^--list .*nowhere/found\.csv: no such folder"):
        tasks_check("busi", tmp_path, list=tmp_path / "nowhere/found.csv")


def test_a_tasks_own_options_are_typed_and_unknown_ones_refused() -> None:
    assert typed_options("busi", {"faults": "keep"}) == {"faults": "keep"}
    assert typed_options("custom", {"classes": ["2CH", "4CH"]}) == {"classes": ("2CH", "4CH")}
    assert typed_options("custom", {"classes": "2CH", "positive": None}) == {"classes": ("2CH",), "positive": None}
    with pytest.raises(UserError, match=r"^--options\.faults perhaps: choose"):
        typed_options("busi", {"faults": "perhaps"})
    with pytest.raises(UserError, match=r"^--options\.fautls: unknown; did you mean --options\.faults\?"):
        typed_options("busi", {"fautls": "keep"})


def test_real_clips_are_decoded_without_a_finding_that_stops(ultrasound_data: Path) -> None:
    folder = ultrasound_data / "pocus/data/pocus_videos/convex"
    clips = sorted(folder.glob("Reg*.gif")) + sorted(folder.glob("*set*vid*.avi"))[:2]
    cases = [
        Case(f"{clip.name}#{frame}", clip, "regular", video=clip.name, frame=frame)
        for clip in clips
        for frame in (0, 10)
    ]
    listing = Listing(tuple(cases))
    images, findings = prepare(listing, 112, 3, False, show_progress=False)
    assert not [finding for finding in findings if finding.stops]
    for place in range(len(cases)):
        assert images.image(place).std() > 10
    assert not np.array_equal(images.image(0), images.image(1))
