"""One image of a task with what is known of it, and what a task's files were found to hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SplitName = Literal["train", "val", "test"]
FindingKind = Literal["missing", "unreadable", "inconsistent", "note"]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive


@dataclass(frozen=True)
class Case:
    """One image, or one frame of a clip, to be classified or segmented.

    Attributes:
        key: Unique in the task and stable: the file's path relative to the root, with `#12` for frame 12 of a clip.
        path: The image or the clip.
        label: Name of its class, None where only its mask is used.
        patient: Identifies the patient within the task, None where unknown.
        split: The part it belongs to as released, or as the user's table says; None where that says nothing.
        video: Identifies the clip within the task, None for a still.
        frame: Index of the frame in its clip, from 0; None for a still.
        masks: Files of its mask, united where there are several.
        outline: Its mask as a closed polygon of (x, y) in pixels of the file, instead of files.
        box: The part of the picture, in pixels of the file, that alone is the image; None for all of it. Masks and the
            outline are those of the whole picture.
    """

    key: str
    path: Path
    label: str | None = None
    patient: str | None = None
    split: SplitName | None = None
    video: str | None = None
    frame: int | None = None
    masks: tuple[Path, ...] = ()
    outline: tuple[tuple[float, float], ...] | None = None
    box: Box | None = None

    @property
    def has_mask(self) -> bool:
        """Whether it can be used for segmentation."""
        return bool(self.masks) or self.outline is not None

    @property
    def group(self) -> str:
        """What must stay in one part of a split: the patient, else the clip, else the image itself.

        The prefixes keep a patient's number apart from a clip's.
        """
        if self.patient is not None:
            return f"patient {self.patient}"
        return f"video {self.video}" if self.video is not None else f"image {self.key}"


@dataclass(frozen=True)
class Finding:
    """Something about a task's files that its user should know.

    Attributes:
        path: The file.
        kind: `missing`, `unreadable` and `inconsistent` stop a training; a `note` does not.
        reason: What is wrong and what to do, in a few words.
        whole: Whether it is about a table or a set as a whole, so that no file can be left out to mend it.
    """

    path: Path
    kind: FindingKind
    reason: str
    whole: bool = False

    @property
    def stops(self) -> bool:
        """Whether training refuses to begin."""
        return self.kind != "note"


@dataclass(frozen=True)
class Listing:
    """What a task's files hold, found without decoding pixels.

    Attributes:
        cases: Sorted by key.
        classes: Names of the labels; a label's index is its place here. Empty where cases have only masks.
        positive: The class whose probability AUROC, sensitivity and specificity speak of, where there are two.
        structures: Names of what masks show, without the background; value k of a mask is `structures[k - 1]`.
        findings: What is wrong with the files, and what was left out.
        source: The table or the folder that a user would mend, where it is one's own.
    """

    cases: tuple[Case, ...]
    classes: tuple[str, ...] = ()
    positive: str | None = None
    structures: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    source: Path | None = None
