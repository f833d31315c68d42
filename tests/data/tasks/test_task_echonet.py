import csv
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from arl_lightning.data.tasks.case import Finding, Listing
from arl_lightning.data.tasks.echonet import EchoNet
from arl_lightning.data.tasks.frames import read_frames
from arl_lightning.data.tasks.masks import read_mask
from arl_lightning.errors import UserError

# Ends of chords from the apex down, (x1, y1, x2, y2): a ventricle that leans to the right, and a smaller one.
DIASTOLE = [(50, 20, 54, 20), (44, 30, 64, 30), (40, 45, 70, 45), (38, 60, 74, 60), (40, 75, 78, 75), (46, 85, 76, 85)]
SYSTOLE = [(52, 30, 54, 30), (48, 38, 62, 38), (46, 48, 66, 48), (45, 58, 68, 58), (46, 68, 70, 68), (50, 76, 70, 76)]
LONG_AXIS = (52, 20, 61, 88)

# The first of them by hand, as one would draw it: down the left side, and up the right one.
DRAWN = [
    *((50, 20), (44, 30), (40, 45), (38, 60), (40, 75), (46, 85)),
    *((76, 85), (78, 75), (74, 60), (70, 45), (64, 30), (54, 20)),
]
# Trapezia between the chords, of widths 4, 20, 30, 36, 38, 30: 10 (4 + 20) / 2 + 15 (20 + 30) / 2 and so on.
DRAWN_AREA = 120 + 375 + 495 + 555 + 340


def write_video(path: Path, num_frames: int = 20) -> None:
    """Write a bright clip whose frame 12 shows the drawn ventricle in black."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=50)
        stream.width = stream.height = 112
        stream.pix_fmt = "yuvj420p"
        for index in range(num_frames):
            frame = np.full((112, 112, 3), 200, np.uint8)
            if index == 12:
                cv2.fillPoly(frame, [np.array(DRAWN)], (0, 0, 0))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("echonet") / "clip.avi"
    write_video(path)
    return path.read_bytes()


@pytest.fixture
def root(tmp_path: Path, video: bytes) -> Path:
    """A release of three videos, 0XA to train, 0XB to validate and 0XC to test; diastole is frame 12 of each."""
    (tmp_path / "Videos").mkdir()
    files = [["FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split"]]
    tracings = [["FileName", "X1", "Y1", "X2", "Y2", "Frame"]]
    for stem, split in (("0XA", "TRAIN"), ("0XB", "VAL"), ("0XC", "TEST")):
        (tmp_path / f"Videos/{stem}.avi").write_bytes(video)
        files.append([stem, "60.1", "20.0", "50.0", "112", "112", "50", "20", split])
        for frame, chords in ((4, SYSTOLE), (12, DIASTOLE)):
            tracings += [[f"{stem}.avi", *map(str, chord), str(frame)] for chord in (LONG_AXIS, *chords)]
    write(tmp_path / "FileList.csv", files)
    write(tmp_path / "VolumeTracings.csv", tracings)
    return tmp_path


def write(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first place of a text in a file that holds it."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def only(listing: Listing) -> Finding:
    assert len(listing.findings) == 1, listing.findings
    return listing.findings[0]


def test_each_video_gives_its_two_traced_frames_to_the_part_of_the_release(root: Path) -> None:
    listing = EchoNet(root).listing()
    assert (listing.classes, listing.structures, listing.findings) == ((), ("left ventricle",), ())
    assert [(case.key, case.split, case.patient, case.frame) for case in listing.cases] == [
        ("Videos/0XA.avi#12", "train", "0XA", 12),
        ("Videos/0XA.avi#4", "train", "0XA", 4),
        ("Videos/0XB.avi#12", "val", "0XB", 12),
        ("Videos/0XB.avi#4", "val", "0XB", 4),
        ("Videos/0XC.avi#12", "test", "0XC", 12),
        ("Videos/0XC.avi#4", "test", "0XC", 4),
    ]


def test_the_mask_of_a_tracing_is_the_polygon_drawn_by_hand(root: Path) -> None:
    case = EchoNet(root).listing().cases[0]
    mask, findings = read_mask(case, 1, (112, 112))
    by_hand = np.zeros((112, 112), np.uint8)
    cv2.fillPoly(by_hand, [np.array(DRAWN)], 1)
    assert findings == []
    np.testing.assert_array_equal(mask, by_hand)
    # A filled polygon of whole coordinates holds its area and half its border, plus 1 (Pick 1899).
    border = np.abs(np.subtract(DRAWN, np.roll(DRAWN, 1, axis=0)))
    assert abs(mask.sum() - (DRAWN_AREA + 1)) <= border.max(axis=1).sum()
    assert mask.sum() > DRAWN_AREA


def test_the_tracing_lies_on_what_its_frame_shows(root: Path) -> None:
    case = EchoNet(root).listing().cases[0]
    (_, frame), *_ = read_frames(case.path, [case.frame])
    mask, _ = read_mask(case, 1, frame.shape[:2])
    outside = cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 0
    assert frame[cv2.erode(mask, np.ones((5, 5), np.uint8)) == 1].max() < 80
    assert frame[outside].min() > 120


def test_end_diastole_is_the_larger_of_the_two(root: Path) -> None:
    assert {case.frame for case in EchoNet(root, phase="ed").listing().cases} == {12}
    assert {case.frame for case in EchoNet(root, phase="es").listing().cases} == {4}
    with pytest.raises(UserError, match=r"phase: 'end' is unknown; choose from both, ed, es"):
        EchoNet(root, phase="end")


def test_a_video_without_a_tracing_is_left_out_with_a_note(root: Path) -> None:
    rows = [row for row in (root / "VolumeTracings.csv").read_text().splitlines() if "0XB" not in row]
    (root / "VolumeTracings.csv").write_text("\n".join(rows))
    listing = EchoNet(root).listing()
    assert {case.patient for case in listing.cases} == {"0XA", "0XC"}
    assert (only(listing).kind, only(listing).reason) == ("note", "video 0XB left out, for it has no tracing")


def test_many_videos_without_a_tracing_stand_for_a_table_that_was_cut_off(root: Path) -> None:
    with (root / "FileList.csv").open("a") as file:
        for place in range(7):
            (root / f"Videos/0XF{place}.avi").touch()
            file.write(f"0XF{place},60,20,50,112,112,50,20,TRAIN\n")
    finding = only(EchoNet(root).listing())
    assert finding.stops
    assert finding.reason.startswith("7 videos, such as 0XF0, left out")


def test_what_the_list_of_files_does_not_name_is_left_out_with_a_note(root: Path) -> None:
    edit(root / "FileList.csv", "0XB,60.1,20.0,50.0,112,112,50,20,VAL", "")
    listing = EchoNet(root).listing()
    assert {case.patient for case in listing.cases} == {"0XA", "0XC"}
    assert [(finding.kind, finding.reason) for finding in listing.findings] == [
        ("note", "tracing 0XB left out, for FileList.csv does not list it"),
        ("note", "video 0XB left out, for FileList.csv does not list it"),
    ]


def test_a_missing_video_is_a_finding_about_that_file(root: Path) -> None:
    (root / "Videos/0XA.avi").unlink()
    listing = EchoNet(root).listing()
    assert (only(listing).path, only(listing).kind) == (root / "Videos/0XA.avi", "missing")
    assert {case.patient for case in listing.cases} == {"0XB", "0XC"}


@pytest.mark.parametrize(
    ("table", "old", "new", "reason"),
    [
        ("VolumeTracings", "0XA.avi,52,30", "0XA.avi,nan,30", r"0XA.avi, line 3, column X1: 'nan' is no number"),
        ("VolumeTracings", "0XA.avi,52,30,54,30,4", "0XA.avi,52", r"0XA.avi, line 3, column Y1: '' is no number"),
        ("VolumeTracings", "54,30,4", "54,30,No Systolic", r"line 3, column Frame: 'No Systolic' is no index from 0"),
        ("VolumeTracings", "54,30,4", f"54,30,{'1' * 5000}", r"line 3, column Frame: '1111"),
        ("VolumeTracings", "0XA.avi,52,30,54,30,4", "0XA.avi,52,30,1e300,30,4", r"frame 4: X 1e+300 lies outside the"),
        ("VolumeTracings", "0XA.avi,52,20,61,88,4\n", "", r"0XA.avi, frame 4: its first row is not the long axis"),
        ("VolumeTracings", "0XA.avi,48,38,62,38,4", "0XA.avi,62,38,48,38,4", r"0XA.avi, frame 4: its outline crosses"),
        (
            "FileList",
            "112,112,50,20,TRAIN",
            "50,112,50,20,TRAIN",
            r"frame 4: Y 88 lies outside the picture of 112x50 p",
        ),
        ("FileList", "50,20,TRAIN", f"50,{'1' * 5000},TRAIN", r"0XA: NumberOfFrames '11111111111111111111' is no"),
        ("FileList", "50,20,TRAIN", "50,12,TRAIN", r"VolumeTracings.csv traces frame 12, but FileList.csv counts 12 f"),
        ("FileList", "50,20,TRAIN", "50,20,NaN", r"0XA: Split 'NaN' is none of TRAIN, VAL, TEST"),
        ("FileList", "50,20,TRAIN", "50,nan,TRAIN", r"0XA: NumberOfFrames 'nan' is no number"),
    ],
)
def test_a_cell_that_is_no_number_is_named(root: Path, table: str, old: str, new: str, reason: str) -> None:
    edit(root / f"{table}.csv", old, new)
    listing = EchoNet(root).listing()
    assert reason in listing.findings[0].reason
    assert listing.findings[0].stops
    assert {case.patient for case in listing.cases} == {"0XB", "0XC"}


def test_a_tracing_of_too_few_rows_and_a_video_of_one_frame_are_found(root: Path) -> None:
    lines = (root / "VolumeTracings.csv").read_text().splitlines()
    (root / "VolumeTracings.csv").write_text("\n".join(lines[:-4]))  # cut off within the last frame
    listing = EchoNet(root).listing()
    assert "0XC.avi, frame 12: 3 rows, a long axis and at least 5 chords are needed" in only(listing).reason
    (root / "VolumeTracings.csv").write_text("\n".join(lines[:-7]))
    assert only(EchoNet(root).listing()).reason.startswith("1 frame traced, where end-diastole and end-systole")


def test_a_stray_quote_refuses_the_tracings_by_its_line(root: Path) -> None:
    edit(root / "VolumeTracings.csv", "0XA.avi,52,30", '"0XA.avi,52,30')
    with pytest.raises(UserError, match=r"VolumeTracings\.csv: .*\(line 3: a quote that is not closed\); download it"):
        EchoNet(root).listing()
    edit(root / "VolumeTracings.csv", "0XB.avi", '0XB.avi"')  # closed two videos on
    with pytest.raises(UserError, match=r"VolumeTracings\.csv: .*\(line 3: a quote that is not closed\)"):
        EchoNet(root).listing()


def test_an_unlisted_videos_tracing_is_not_looked_into(root: Path) -> None:
    edit(root / "VolumeTracings.csv", "0XA.avi,48,38,62,38,4", "0XA.avi,62,38,48,38,4")
    edit(root / "FileList.csv", "0XA,60.1,20.0,50.0,112,112,50,20,TRAIN", "")
    assert not any(finding.stops for finding in EchoNet(root).listing().findings)


def test_another_folder_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"FileList\.csv: missing; --root must be the folder of EchoNet-Dynamic"):
        EchoNet(root / "Videos").listing()
    edit(root / "VolumeTracings.csv", "X1,Y1,X2,Y2", "X,Y")
    with pytest.raises(UserError, match=r"VolumeTracings\.csv: has no column 'X1', only FileName, X, Y, Frame"):
        EchoNet(root).listing()
    edit(root / "VolumeTracings.csv", "X,Y", "X1,Y1,X2,Y2")
    for path in (root / "Videos").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"Videos: holds no video of FileList\.csv; copy the whole set"):
        EchoNet(root).listing()
