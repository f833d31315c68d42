"""EchoNet-Dynamic: the left ventricle in apical four-chamber echocardiograms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from arl_lightning.data.sources.choices import check_choices
from arl_lightning.data.sources.layout import read_csv, require
from arl_lightning.data.tasks.case import Case, Finding, Listing, SplitName
from arl_lightning.data.tasks.echonet_geometry import polygon_area
from arl_lightning.data.tasks.echonet_tracings import Outline, Tracings, read_tracings
from arl_lightning.data.tasks.table import SPLITS, is_index, table_listing
from arl_lightning.data.wording import count, one_line
from arl_lightning.errors import UserError

FILES, TRACINGS, VIDEOS = "FileList.csv", "VolumeTracings.csv", "Videos"
STRUCTURES = ("left ventricle",)
WHERE = "EchoNet-Dynamic in the shared data sets of Stanford AIMI, after registration"
SIDE = 112  # pixels of a picture's height and width
MAX_UNTRACED = 6  # listed videos of the release that have no tracing

Phase = Literal["both", "ed", "es"]


@dataclass(frozen=True)
class EchoNet:
    """Outline the left ventricle in the two traced frames of each video, end-diastole and end-systole.

    Layout:
        EchoNet-Dynamic/
            Videos/0X1002E8FBACD08477.avi, ...      112 x 112 pixels
            FileList.csv            FileName (without `.avi`), EF, ESV, EDV, ..., NumberOfFrames, Split
            VolumeTracings.csv      FileName (with `.avi`), X1, Y1, X2, Y2, Frame

        A row of the tracings is a line through the ventricle in a frame, counted from 0. Of a frame's rows the first is
        the long axis; the others are chords across it, in their order along it, whose ends make the outline. This is
        how the authors' program reads them.

    Labels:
        A mask of the left ventricle's blood pool, no classes. The frame with the larger area is end-diastole.

    Split:
        TRAIN, VAL, TEST of `FileList.csv`: 7,465, 1,288 and 1,277 videos, of which 7,460, 1,288 and 1,276 have
        tracings; a case is a frame, hence twice as many cases. The paper trains on 8,000 videos and tests on 2,030, and
        does not say on which: `--split.source drawn --split.test 4060` draws 2,030 videos (4,060 frames), and the
        validation part comes out of the others. The paper's Dice of 0.9216 and mIoU of 0.8546 are Dice and IoU of the
        ventricle alone: D / (2 - D) gives the one from the other.

    Citation:
        Ouyang D, He B, Ghorbani A, Yuan N, Ebinger J, et al., "Video-Based AI for Beat-to-Beat Assessment of Cardiac
        Function", Nature 580 (2020) 252-256, doi:10.1038/s41586-020-2145-8.

    Licence:
        Research use agreement of Stanford University, not commercial; no open redistribution.

    Access:
        Register at the shared data sets of the Stanford Center for Artificial Intelligence in Medicine and Imaging
        (AIMI) and sign the agreement for EchoNet-Dynamic.

    Faults:
        Six listed videos have no tracing, and are 768 pixels high; one traced video, 0X4F8859C8AB4DA9CB, is neither
        listed nor there. Both are left out with a note. A few points lie outside the picture and are cut off with it;
        points further out than a tenth of its side, a first row that is no long axis, chords out of order and outlines
        that cross themselves are findings.

    Attributes:
        root: The folder that holds the tables and `Videos`.
        table: A user's table `image,mask[,patient][,split]`, read instead.
        phase: Use the frames of end-diastole, of end-systole, or both.
    """

    root: Path = Path()
    table: Path | None = None
    phase: Phase = "both"
    name = "echonet"
    anatomy = "cardiac"
    where = WHERE
    metrics = ("dice", "iou", "hd95")

    def __post_init__(self) -> None:
        check_choices("phase", [self.phase], get_args(Phase))

    def listing(self) -> Listing:
        """List the traced frames.

        Raises:
            UserError: If the root is not EchoNet-Dynamic, holds no listed video, or a table lacks a column.
        """
        if self.table is not None:
            return table_listing(self.table, self.root, (), None, STRUCTURES, WHERE)
        require(self.root, (FILES, TRACINGS, VIDEOS), "EchoNet-Dynamic", WHERE)
        videos, findings = _read_files(self.root / FILES)
        tracings = read_tracings(self.root / TRACINGS, WHERE, {stem: video.size for stem, video in videos.items()})
        findings += tracings.findings
        there = {path.name.removesuffix(".avi") for path in (self.root / VIDEOS).glob("*.avi")}
        if not there.intersection(videos):
            raise UserError(f"{one_line(self.root / VIDEOS)}: holds no video of {FILES}; copy the whole set ({WHERE})")
        cases: list[Case] = []
        for stem, video in sorted(videos.items()):
            found = list(self._check(video, stem in there, tracings))
            findings += found
            if not found and stem in tracings.outlines and stem not in tracings.damaged:
                cases += self._cases(video, tracings.outlines[stem])
        findings += _leftovers(self.root, videos, tracings, there)
        return Listing(tuple(sorted(cases, key=lambda case: case.key)), (), None, STRUCTURES, tuple(findings))

    def _check(self, video: "_Video", is_there: bool, tracings: Tracings) -> Iterator[Finding]:
        path = self.root / VIDEOS / f"{video.stem}.avi"
        if not is_there:
            yield Finding(path, "missing", f"listed in {FILES}; copy it there, or the whole set again ({WHERE})")
        outlines = tracings.outlines.get(video.stem)
        if outlines is None or video.stem in tracings.damaged:
            return
        beyond = [frame for frame in outlines if video.num_frames is not None and frame >= video.num_frames]
        if beyond:
            reason = f"{TRACINGS} traces frame {beyond[0]}, but {FILES} counts {count(video.num_frames or 0, 'frame')}"
            yield Finding(path, "inconsistent", f"{reason}; download both tables again")
        if len(outlines) != 2:
            reason = f"{count(len(outlines), 'frame')} traced, where end-diastole and end-systole are expected"
            yield Finding(path, "inconsistent", f"{reason}; download {TRACINGS} again")

    def _cases(self, video: "_Video", outlines: dict[int, Outline]) -> Iterator[Case]:
        by_area = sorted(outlines, key=lambda frame: polygon_area(np.array(outlines[frame])))
        wanted = {"both": by_area, "ed": by_area[-1:], "es": by_area[:1]}[self.phase]
        for frame in wanted:
            name = f"{VIDEOS}/{video.stem}.avi"
            yield Case(
                f"{name}#{frame}",
                self.root / name,
                patient=video.stem,
                split=video.split,
                video=video.stem,
                frame=frame,
                outline=outlines[frame],
            )


@dataclass(frozen=True)
class _Video:
    stem: str
    split: SplitName
    num_frames: int | None  # where the table says
    size: tuple[int, int]  # height and width


def _read_files(path: Path) -> tuple[dict[str, _Video], list[Finding]]:
    """Return the listed videos by name; rows that cannot be used become findings."""
    videos: dict[str, _Video] = {}
    findings = []
    rows = read_csv(path, ("FileName", "Split"), WHERE)
    for row in rows:
        stem = row.get("FileName", "").strip().removesuffix(".avi")
        split = SPLITS.get(row.get("Split", "").strip().lower())
        frames = row.get("NumberOfFrames", "").strip().removesuffix(".0")  # a program may have made it a fraction
        if not stem or stem.lower() == "nan":
            reason = f"a row {list(row.values())[:3]} without FileName"
        elif stem in videos:
            reason = f"{stem} is listed twice"
        elif split is None:
            reason = f"{stem}: Split '{(row.get('Split') or '').strip()}' is none of TRAIN, VAL, TEST"
        elif "NumberOfFrames" in row and not is_index(frames):
            reason = f"{stem}: NumberOfFrames '{frames[:20]}' is no number"
        else:
            videos[stem] = _Video(stem, split, int(frames) if frames else None, _size(row))
            continue
        findings.append(Finding(path, "inconsistent", f"{one_line(reason)}; download the table again"))
    return videos, findings


def _size(row: dict[str, str]) -> tuple[int, int]:
    """Return the height and width of a video's pictures, those of the release where the table does not say."""
    sides = [row.get(name, "").strip().removesuffix(".0") for name in ("FrameHeight", "FrameWidth")]
    height, width = (int(side) if is_index(side) and int(side) else SIDE for side in sides)
    return height, width


def _leftovers(root: Path, videos: dict[str, _Video], tracings: Tracings, there: set[str]) -> Iterator[Finding]:
    """Say which videos are used in no case, and which tracings are."""
    traced = tracings.outlines.keys() | tracings.damaged
    untraced = sorted(videos.keys() - traced)
    if untraced:
        reason = f"{_some(untraced, 'video')} left out, for it has no tracing"
        many = len(untraced) > MAX_UNTRACED
        fix = f"; the release has {MAX_UNTRACED} such, download {TRACINGS} again" if many else ""
        yield Finding(root / TRACINGS, "inconsistent" if many else "note", reason + fix)
    unlisted = sorted(traced - videos.keys())
    if unlisted:
        yield Finding(root / TRACINGS, "note", f"{_some(unlisted, 'tracing')} left out, for {FILES} does not list it")
    unknown = sorted(there - videos.keys())
    if unknown:
        yield Finding(root / VIDEOS, "note", f"{_some(unknown, 'video')} left out, for {FILES} does not list it")


def _some(names: Sequence[str], noun: str) -> str:
    return f"{count(len(names), noun)}, such as {one_line(names[0])}," if names[1:] else f"{noun} {one_line(names[0])}"
