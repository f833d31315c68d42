import csv
import dataclasses
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from arl_lightning.data.media import ClipFrame, UnreadableError, decode_clip
from arl_lightning.data.tasks.case import Listing
from arl_lightning.data.tasks.pocus import Pocus, sampled_frames
from arl_lightning.data.tasks.splits import SplitOptions, split_cases
from arl_lightning.data.tasks.task import Task
from arl_lightning.errors import UserError

COLUMNS = ("Filename", "Label", "License", "InThisRepo", "Probe", "Framerate", "Resolution", "Length", "Gender", "Age")
COLUMNS += ("Patient ID / Name", "Lung /abdomen interface")

ROWS = (
    ("Reg_a", "regular", "CC BY 4.0", "Yes", "convex", "25", "64x64", "50", "w", "22", "10", ""),
    ("Cov_b", "COVID-19", "None", "Yes", "convex", "25", "64x64", "50", "m", "30", "10", ""),
    ("pneu-c", "Bacterial pneumonia", "None", "Yes", "linear", "25", "64x64", "50", "nd", "", "74", ""),
    # One column too far to the right, as four rows of the release stand: the patient is 7, of age 40.
    ("Vir_d", "Viral pneumonia", "None", "No", "linear", "", "15", "64x64", "24", "m", "40", "7"),
)
STILLS = {"Cov_b": "data/pocus_images/convex/Cov_b.JPG", "Reg_a": "data/pocus_images/convex/Reg_a.png"}
CLIPS = {"pneu-c": "data/pocus_videos/linear/pneu-c.mp4", "Vir_d": "data/pocus_videos/linear/Vir_d.avi"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture
def root(tmp_path, write_clip) -> Path:
    """Two stills (empty, for listing decodes none) and two clips of two seconds."""
    for folder in ("pocus_images/convex", "pocus_images/linear", "pocus_videos/linear"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for name in STILLS.values():
        (tmp_path / name).touch()
    for name in CLIPS.values():
        write_clip(tmp_path / name)
    write_table(tmp_path, ROWS)
    return tmp_path


def write_table(root: Path, rows: tuple[tuple[str, ...], ...], columns: tuple[str, ...] = COLUMNS) -> None:
    with (root / "data/dataset_metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def labels(listing: Listing) -> dict[str, str | None]:
    return {case.video or case.key: case.label for case in listing.cases}


def findings(listing: Listing) -> list[tuple[str, str, str]]:
    return [(finding.path.name, finding.kind, finding.reason) for finding in listing.findings]


def test_names_give_the_four_classes_in_any_case(root):
    listing = Pocus(root).listing()
    assert listing.findings == ()
    assert listing.classes == ("covid", "pneumonia", "regular", "viral")
    assert labels(listing) == {
        STILLS["Cov_b"]: "covid",
        STILLS["Reg_a"]: "regular",
        CLIPS["pneu-c"]: "pneumonia",
        CLIPS["Vir_d"]: "viral",
    }


def test_a_clip_gives_its_frames_and_a_still_itself(root):
    cases = Pocus(root).listing().cases
    frames = [case for case in cases if case.video == CLIPS["Vir_d"]]
    assert sorted(case.frame for case in frames) == [0, 9, 17, 25, 34, 42]
    assert {case.key for case in frames} == {f"{CLIPS['Vir_d']}#{frame}" for frame in (0, 9, 17, 25, 34, 42)}
    still = next(case for case in cases if case.key == STILLS["Cov_b"])
    assert (still.path, still.video, still.frame, still.patient) == (root / STILLS["Cov_b"], None, None, "10")
    assert [case.key for case in cases] == sorted(case.key for case in cases)


@pytest.mark.parametrize(("options", "frames"), [({"fps": 1.0}, [0, 25]), ({"max_frames": 2}, [0, 9])])
def test_frames_are_as_many_as_asked_for(root, options, frames):
    cases = Pocus(root, **options).listing().cases
    assert sorted(case.frame for case in cases if case.video == CLIPS["pneu-c"]) == frames


def test_all_of_a_patient_form_one_group(root):
    groups = {case.key: case.group for case in Pocus(root).listing().cases}
    assert groups[STILLS["Cov_b"]] == groups[STILLS["Reg_a"]] == "patient 10"
    assert groups[f"{CLIPS['Vir_d']}#0"] == groups[f"{CLIPS['Vir_d']}#42"] == "patient 7"


def test_a_clip_without_a_patient_is_a_group_and_it_is_said(root):
    write_table(root, (ROWS[0], ROWS[1], (*ROWS[2][:10], "", "")))
    listing = Pocus(root).listing()
    assert {case.group for case in listing.cases if case.video} == {f"video {clip}" for clip in CLIPS.values()}
    reason = "2 files without a patient in data/dataset_metadata.csv: each counts as a patient of its own"
    assert findings(listing) == [("linear", "note", reason)]


def test_covid_against_regular_leaves_others_out_and_says_so(root):
    listing = Pocus(root, classes="covid").listing()
    assert (listing.classes, listing.positive) == (("regular", "covid"), "covid")
    assert labels(listing) == {STILLS["Cov_b"]: "covid", STILLS["Reg_a"]: "regular"}
    assert findings(listing) == [("linear", "note", "2 files of classes other than regular, covid left out")]


def test_three_classes_are_without_viral(root):
    listing = Pocus(root, classes="three").listing()
    assert listing.classes == ("covid", "pneumonia", "regular")
    assert set(labels(listing).values()) == {"covid", "pneumonia", "regular"}


def test_a_label_that_the_table_contradicts_is_noted_and_the_name_counts(root):
    write_table(root, ((ROWS[0][0], "COVID-19", *ROWS[0][2:]), *ROWS[1:]))
    listing = Pocus(root).listing()
    assert labels(listing)[STILLS["Reg_a"]] == "regular"
    reason = "regular by its name, 'COVID-19' by data/dataset_metadata.csv; the name counts"
    assert findings(listing) == [("Reg_a.png", "note", reason)]


def test_a_name_of_no_class_stops(root):
    for name in ("Regular_x.png", "0_Cov.png"):
        (root / "data/pocus_images/linear" / name).touch()
    reason = "its name begins with none of cov, pneu, reg, vir; rename or remove it"
    found = findings(Pocus(root).listing())
    assert found == [("0_Cov.png", "inconsistent", reason), ("Regular_x.png", "inconsistent", reason)]


def test_doubted_labels_are_left_out_unless_asked_for(root):
    doubted = root / "data/pocus_videos/linear/label_uncertain"
    doubted.mkdir()
    shutil.copy(root / CLIPS["pneu-c"], doubted / "Cov_bolzano.mp4")
    listing = Pocus(root).listing()
    assert not any("bolzano" in key for key in labels(listing))
    reason = "1 file in label_uncertain left out; --options.uncertain keep uses them"
    assert findings(listing) == [("label_uncertain", "note", reason)]
    kept = labels(Pocus(root, uncertain="keep").listing())
    assert kept["data/pocus_videos/linear/label_uncertain/Cov_bolzano.mp4"] == "covid"


def test_recordings_that_the_table_promises_are_missed(root):
    (root / STILLS["Reg_a"]).unlink()
    reason = "1 of the 3 recordings that it says are in the repository are not here, such as Reg_a; clone Jannis Born's"
    (found,) = findings(Pocus(root).listing())
    assert found == ("dataset_metadata.csv", "note", f"{reason} repository covid19_ultrasound for all")


def test_a_row_that_ends_early_is_read(root):
    write_table(root, (*ROWS[:3], ROWS[3][:2]))
    listing = Pocus(root).listing()
    assert labels(listing)[CLIPS["Vir_d"]] == "viral"
    assert [kind for _, kind, _ in findings(listing)] == ["note"]


@pytest.mark.parametrize("name", CLIPS.values())
def test_a_clip_that_stops_early_is_unreadable_and_the_rest_is_listed(root, write_clip, name):
    path = write_clip(root / name, noise=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    listing = Pocus(root).listing()
    (finding,) = listing.findings
    assert (finding.path, finding.kind) == (path, "unreadable")
    assert "of 50 frames" in finding.reason
    assert set(labels(listing)) == {*STILLS.values(), *CLIPS.values()} - {name}


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty file"), (b"no clip" * 100, "Invalid data")])
def test_what_is_no_clip_is_unreadable(tmp_path, content, reason):
    (tmp_path / "Cov_x.mp4").write_bytes(content)
    with pytest.raises(UnreadableError, match=reason):
        sampled_frames(tmp_path / "Cov_x.mp4", Fraction(3))


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp4", "mpeg4"), (".avi", "mpeg4"), (".gif", "gif"), (".mov", "libx264"), (".mpeg", "mpeg2video")],
)
@pytest.mark.parametrize("fps", [Fraction(1, 2), Fraction(3), Fraction(60)])
def test_frames_are_those_that_decoding_yields(clips, write_clip, suffix, codec, fps):
    path = clips / f"{codec}{suffix}"
    if not path.is_file():
        write_clip(path, codec=codec)
    decoded = [frame.index for frame in decode_clip(path, fps) if isinstance(frame, ClipFrame)]
    assert sampled_frames(path, fps) == decoded
    assert len(decoded) == {Fraction(1, 2): 1, Fraction(3): 6, Fraction(60): 50}[fps]


@pytest.mark.parametrize("entry", ["data/dataset_metadata.csv", "data/pocus_images", "data/pocus_videos"])
def test_a_missing_entry_is_named_with_where_to_ask(root, entry):
    (root / entry).rename(root / "elsewhere")
    with pytest.raises(UserError, match=rf"{entry}: missing; .*covid19_ultrasound"):
        Pocus(root).listing()


def test_a_table_without_labels_is_refused(root):
    write_table(root, ROWS, tuple("Class" if column == "Label" else column for column in COLUMNS))
    with pytest.raises(UserError, match=r"dataset_metadata\.csv: has no column 'Label'"):
        Pocus(root).listing()


def test_empty_folders_are_refused(root):
    for name in (*STILLS.values(), *CLIPS.values()):
        (root / name).unlink()
    with pytest.raises(UserError, match="holds no still or clip of covid or pneumonia or regular or viral; clone"):
        Pocus(root).listing()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "two"}, "classes: 'two' is unknown; choose from four, three, covid"),
        ({"uncertain": "yes"}, "uncertain: 'yes' is unknown; choose from drop, keep"),
        ({"fps": 0.0}, r"fps 0\.0: must be above 0"),
        ({"max_frames": 0}, "max_frames 0: must be 1 or more"),
    ],
)
def test_an_impossible_option_is_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        Pocus(tmp_path, **options)


def test_a_table_of_the_user_is_read_instead(root):
    (root / "mine.csv").write_text(f"image,label,patient\n{STILLS['Cov_b']},covid,1\n{STILLS['Reg_a']},regular,2\n")
    listing = Pocus(root, table=root / "mine.csv", classes="covid").listing()
    assert labels(listing) == {STILLS["Cov_b"]: "covid", STILLS["Reg_a"]: "regular"}


def test_its_fields_are_its_options(tmp_path):
    task: Task = Pocus(tmp_path)
    names = [field.name for field in dataclasses.fields(Pocus)]
    assert names == ["root", "table", "classes", "uncertain", "fps", "max_frames"]
    assert (task.name, task.anatomy, task.metrics) == ("pocus", "lung", ("accuracy", "auroc"))


def test_the_real_files_have_their_classes_and_patients(ultrasound_data):
    listing = Pocus(ultrasound_data / "pocus").listing()
    assert [(f.kind, f.reason[:27]) for f in listing.findings] == [("note", "99 of the 171 recordings th")]
    files = {case.video or case.key: case for case in listing.cases}
    stills = Counter(case.label for case in files.values() if case.video is None)
    assert stills == {"covid": 7, "pneumonia": 14, "regular": 10}
    recordings = Counter(case.label for case in files.values() if case.video)
    assert recordings == {"covid": 10, "pneumonia": 14, "regular": 12, "viral": 5}
    assert all(case.patient for case in listing.cases)
    assert max(Counter(case.video for case in listing.cases if case.video).values()) == 30


def test_no_real_patient_is_in_two_parts(ultrasound_data):
    cases = Pocus(ultrasound_data / "pocus").listing().cases
    split = split_cases(cases, SplitOptions())
    patients = [{cases[place].patient for place in part} for part in (split.train, split.val, split.test)]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 55


def test_frames_of_real_clips_are_those_that_decoding_yields(ultrasound_data):
    paths = [path for path in (ultrasound_data / "pocus/data/pocus_videos").rglob("*.*") if path.suffix != ".csv"]
    assert len(paths) == 41
    for path in sorted(paths):
        decoded = [frame.index for frame in decode_clip(path, Fraction(3)) if isinstance(frame, ClipFrame)]
        assert sampled_frames(path, Fraction(3)) == decoded, path.name
