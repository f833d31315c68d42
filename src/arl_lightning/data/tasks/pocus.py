"""POCUS: lungs with COVID-19, with other pneumonia, and healthy ones, in stills and clips."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import av

from arl_lightning.data.media import (
    CLIP_OPTIONS,
    COMPLETE_SHARE,
    FALLBACK_RATE,
    IMAGE_SUFFIXES,
    UnreadableError,
    reason_of,
    refuse_machine_failure,
)
from arl_lightning.data.sources.choices import check_choices
from arl_lightning.data.sources.folder import check_fps, find_media
from arl_lightning.data.sources.layout import read_csv, require
from arl_lightning.data.sources.pocus import (
    AFTER_PATIENT,
    FOLDERS,
    GENDER,
    LICENCE,
    NAME,
    PATIENT,
    PROBE,
    TABLE,
    WHERE,
    Row,
    Rows,
)
from arl_lightning.data.tasks.case import Case, Finding, Listing
from arl_lightning.data.tasks.table import table_listing
from arl_lightning.data.wording import count, one_line
from arl_lightning.errors import UserError

Classes = Literal["four", "three", "covid"]
Choice = Literal["drop", "keep"]

LABELS = {"cov": "covid", "pneu": "pneumonia", "reg": "regular", "vir": "viral"}  # by a file name's first letters
CLASSES: dict[str, tuple[str, ...]] = {
    "four": ("covid", "pneumonia", "regular", "viral"),
    "three": ("covid", "pneumonia", "regular"),
    "covid": ("regular", "covid"),
}
LABEL = "Label"
STATED = {"covid-19": "covid", "bacterial pneumonia": "pneumonia", "regular": "regular", "viral pneumonia": "viral"}
IN_REPOSITORY = "InThisRepo"
UNCERTAIN = "label_uncertain"


@dataclass(frozen=True)
class Pocus:
    """Tells COVID-19, bacterial and viral pneumonia and healthy lungs apart, in about 60 stills and 200 clips.

    Layout:
        covid19_ultrasound/
            data/
                dataset_metadata.csv            one row a recording, also of those that are not in the repository
                pocus_images/{convex,linear}/   .jpg, .png
                pocus_videos/{convex,linear}/   .mp4, .avi, .gif, .mov, .mpeg; label_uncertain/ below linear

    Labels:
        The first letters of a file's name, in any case: Cov covid, Pneu pneumonia (bacterial), Reg regular, Vir viral.
        Where the table's column `Label` says otherwise the name counts, and the check says so.

    Split:
        None is released for all files: one is drawn by patient, as the table numbers them, and by clip where it does
        not, never by frame. The paper's sizes (9,251 and 2,857, Section 4) are of frames and name no files.

    Citation:
        J. Born, N. Wiedemann, M. Cossio, C. Buhre, G. Brandle, K. Leidermann, A. Aujayeb, M. Moor, B. Rieck,
        K. Borgwardt, "Accelerating Detection of Lung Pathologies with Explainable Ultrasound Image Analysis", Applied
        Sciences 11(2) 672, 2021, doi:10.3390/app11020672.

    Licence:
        Each file has its own, in the column `License`: mostly CC BY-NC 4.0, CC BY 4.0, CC BY-NC-SA.

    Access:
        Open, from the GitHub repository covid19_ultrasound of Jannis Born.

    Faults:
        Labels come from many hands; those in `label_uncertain` are doubted by the collectors. A patient may have clips
        of two classes. The recordings in the repository come from 14 origins that differ in scanner and cropping, 7 of
        them with one class alone, so that a network can tell the origin instead of the disease.

    Attributes:
        root: The repository's folder, which holds `data`.
        table: A csv file that is read instead.
        classes: four for all, three without viral, covid for COVID-19 against regular, as the paper's; other files are
            left out.
        uncertain: keep uses the files in `label_uncertain` too.
        fps: Frames taken from each second of a clip; 3 as by the authors' script.
        max_frames: Most frames of one clip; 30 as by the authors' script.
    """

    root: Path
    table: Path | None = None
    classes: Classes = "four"
    uncertain: Choice = "drop"
    fps: float = 3.0
    max_frames: int = 30
    name = "pocus"
    anatomy = "lung"
    where = WHERE
    metrics = ("accuracy", "auroc")

    def __post_init__(self) -> None:
        check_choices("classes", [self.classes], get_args(Classes))
        check_choices("uncertain", [self.uncertain], get_args(Choice))
        check_fps(self.fps)
        if self.max_frames < 1:
            raise UserError(f"max_frames {self.max_frames}: must be 1 or more")

    def listing(self) -> Listing:
        """List the stills, and the clips' frames without decoding them.

        Raises:
            UserError: If a folder, the table or a column is missing, or no file of the chosen classes is there.
        """
        classes = CLASSES[self.classes]
        positive = "covid" if self.classes == "covid" else None
        if self.table is not None:
            return table_listing(self.table, self.root, classes, positive, (), WHERE)
        require(self.root, [TABLE, *FOLDERS], "POCUS", WHERE)
        columns = [NAME, LABEL, LICENCE, PROBE, GENDER, PATIENT, AFTER_PATIENT]
        blank = dict.fromkeys(columns, "")  # for a row that ends early
        records = [blank | row for row in read_csv(self.root / TABLE, columns, where=WHERE)]
        paths = [path for folder in FOLDERS for path in find_media(self.root / folder)]
        findings = list(self._absent(records, paths))
        labels = self._labels(paths, Rows(records), findings)
        cases = [case for path, label in labels.items() for case in self._cases(path, label, Rows(records), findings)]
        if not cases:
            raise UserError(f"{self.root}: holds no still or clip of {' or '.join(classes)}; {WHERE}")
        return Listing(tuple(sorted(cases, key=lambda case: case.key)), classes, positive, (), tuple(findings))

    def _absent(self, records: list[Row], paths: list[Path]) -> Iterator[Finding]:
        here = {path.stem.strip().casefold() for path in paths}
        stated = [row for row in records if row.get(IN_REPOSITORY, "").strip().casefold() == "yes"]
        absent = [row[NAME].strip() for row in stated if row[NAME].strip().casefold() not in here]
        if absent:
            reason = (
                f"{len(absent)} of the {count(len(stated), 'recording')} that it says are in the repository are not"
            )
            yield Finding(self.root / TABLE, "note", f"{reason} here, such as {one_line(absent[0])}; {WHERE} for all")

    def _labels(self, paths: list[Path], rows: Rows, findings: list[Finding]) -> dict[Path, str]:
        """Return the label of each file to use, and find what is left out or doubtful."""
        labels: dict[Path, str] = {}
        uncertain, other, unknown = [], [], []
        for path in paths:
            label = _label_of(path)
            row = rows.row(path)
            if UNCERTAIN in path.parts and self.uncertain == "drop":
                uncertain.append(path)
            elif label is None:
                reason = f"its name begins with none of {', '.join(LABELS)}; rename or remove it"
                findings.append(Finding(path, "inconsistent", reason))
            elif label not in CLASSES[self.classes]:
                other.append(path)
            else:
                labels[path] = label
                stated = (row[LABEL].strip() if row else "") or label
                unknown += [path] if rows.patient(path) is None else []
                if STATED.get(stated.casefold(), stated) != label:
                    reason = f"{label} by its name, '{one_line(stated)}' by {TABLE}; the name counts"
                    findings.append(Finding(path, "note", reason))
        for found, reason in (
            (uncertain, f"in {UNCERTAIN} left out; --options.uncertain keep uses them"),
            (other, f"of classes other than {', '.join(CLASSES[self.classes])} left out"),
            (unknown, f"without a patient in {TABLE}: each counts as a patient of its own"),
        ):
            if found:
                findings.append(Finding(found[0].parent, "note", f"{count(len(found), 'file')} {reason}"))
        return labels

    def _cases(self, path: Path, label: str, rows: Rows, findings: list[Finding]) -> Iterator[Case]:
        key, patient = path.relative_to(self.root).as_posix(), rows.patient(path)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            yield Case(key, path, label, patient)
            return
        try:
            frames = sampled_frames(path, Fraction(self.fps).limit_denominator(1000))
        except UnreadableError as error:
            findings.append(Finding(path, "unreadable", str(error)))
            return
        for frame in frames[: self.max_frames]:
            yield Case(f"{key}#{frame}", path, label, patient, video=key, frame=frame)


def sampled_frames(path: Path, fps: Fraction) -> list[int]:
    """Return the indices of the frames that `media.decode_clip` yields, from the packets' time stamps, undecoded.

    Raises:
        UnreadableError: If the file is no clip or ends early.
    """
    try:
        with av.open(f"file:{path}", options=CLIP_OPTIONS) as container:
            if not container.streams.video:
                raise UnreadableError("holds no video")
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
            num_stated, rate = stream.frames, stream.average_rate or FALLBACK_RATE
    except Exception as error:  # damage surfaces as many types
        refuse_machine_failure(error)
        raise UnreadableError(reason_of(path, error)) from error
    if not packets or len(packets) < COMPLETE_SHARE * num_stated:
        raise UnreadableError(f"ends after {len(packets)} of {num_stated or 'its'} frames; copy it again")
    stamps = [packet.pts for packet in packets]
    if any(stamp is None for stamp in stamps):
        slots = [math.floor(index * fps / rate) for index in range(len(stamps))]
    else:
        shown = sorted(stamp for stamp in stamps if stamp is not None)  # packets come in the order of decoding
        slots = [math.floor((stamp - shown[0]) * packets[0].time_base * fps) for stamp in shown]
    return [index for index, slot in enumerate(slots) if index == 0 or slot != slots[index - 1]]


def _label_of(path: Path) -> str | None:
    letters = re.match(r"[a-z]*", path.stem, re.IGNORECASE)
    return LABELS.get(letters[0].lower()) if letters else None
