"""BUSI: benign against malignant breast lesions, and their outlines."""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from arl_lightning.data.sources.busi import CLASSES, WHERE
from arl_lightning.data.sources.choices import check_choices
from arl_lightning.data.sources.layout import require
from arl_lightning.data.sources.stills import image_files, refuse_empty
from arl_lightning.data.tasks.case import Case, Finding, FindingKind, Listing
from arl_lightning.data.tasks.table import table_listing
from arl_lightning.data.wording import count

Classes = Literal["two", "three"]
Choice = Literal["drop", "keep"]

FOLDER = "Dataset_BUSI_with_GT"
FAULTS = "busi_faults.csv"
STRUCTURES = ("lesion",)
MASK = re.compile(r"(.+)_mask(?:_\d+)?\.png")
RELEASED = {"benign": (437, 454), "malignant": (210, 211), "normal": (133, 133)}  # images and masks


@dataclass(frozen=True)
class Busi:
    """Tells malignant from benign lesions in 647 breast ultrasound images, and outlines them.

    Layout:
        Dataset_BUSI_with_GT/               the root, or in it
            benign/benign (1).png
            benign/benign (1)_mask.png      and _mask_1.png, ... where there are several lesions
            malignant/malignant (1).png, ...
            normal/normal (1).png, ...      with empty masks

    Labels:
        The folder: benign (437 images) or malignant (210), and normal (133) on request. Masks show `lesion`.

    Split:
        None is released, and no patient is known: one is drawn by image. The paper's sizes contradict each other
        (Section 4: 505 for training and 150 for testing, of 655 images; most of its accuracies are k/142).

    Citation:
        Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast ultrasound images. Data in Brief 28:104863, 2020,
        doi:10.1016/j.dib.2019.104863.

    Licence:
        None stated for the data; the article is CC BY 4.0.

    Access:
        The page of data sets of A. Fahmy, Cairo University.

    Faults:
        The same picture more than once, also in two classes, so that a drawn split tests on what it trained on
        (Pawłowska A, Karwat P, Żołek N. Data in Brief 48:109247, 2023). `busi_faults.csv` beside this file lists those
        that were found, with how: without them 318 benign, 187 malignant and 91 normal images are left. Axilla images;
        burned-in callipers, text and body marks.

    Attributes:
        root: The folder that holds the three classes' folders, or the one above it.
        table: A csv file that is read instead.
        classes: two for benign and malignant, three for normal as well.
        faults: drop leaves out what `busi_faults.csv` lists as a duplicate or as having conflicting labels.
        axilla: drop leaves out what it lists as showing the axilla.
        partial: Accept a part of the released files.
    """

    root: Path
    table: Path | None = None
    classes: Classes = "two"
    faults: Choice = "drop"
    axilla: Choice = "keep"
    partial: bool = False
    name = "busi"
    anatomy = "breast"
    where = WHERE
    metrics = ("accuracy", "auroc", "sensitivity", "specificity")

    def __post_init__(self) -> None:
        check_choices("classes", [self.classes], get_args(Classes))
        check_choices("faults", [self.faults], get_args(Choice))
        check_choices("axilla", [self.axilla], get_args(Choice))

    def listing(self) -> Listing:
        """List the images of the chosen classes with their masks.

        Raises:
            UserError: If the root is not this set or holds no image, or the table cannot be read.
        """
        labels = CLASSES if self.classes == "three" else CLASSES[:2]
        positive = "malignant" if self.classes == "two" else None
        if self.table is not None:
            return table_listing(self.table, self.root, labels, positive, STRUCTURES, WHERE)
        root = self.root / FOLDER if (self.root / FOLDER).is_dir() else self.root
        require(root, labels, "BUSI", WHERE)
        findings: list[Finding] = []
        cases = [case for label in labels for case in self._read(root / label, findings)]
        refuse_empty(cases, root, "BUSI", WHERE)
        cases = self._without_faults(cases, root, findings)
        return Listing(tuple(sorted(cases, key=lambda c: c.key)), labels, positive, STRUCTURES, tuple(findings))

    def _read(self, folder: Path, findings: list[Finding]) -> list[Case]:
        """Read a class's folder; files of other names than the released are found and left out."""
        masks: dict[str, list[Path]] = defaultdict(list)
        images: dict[str, Path] = {}
        for path in image_files(folder):
            if match := MASK.fullmatch(path.name):
                masks[f"{match[1]}.png"].append(path)
            else:
                images[path.name] = path
        released = {f"{folder.name} ({number}).png" for number in range(1, RELEASED[folder.name][0] + 1)}
        for name in sorted(images.keys() - released):
            findings.append(Finding(images.pop(name), "inconsistent", "no file of the release; remove it"))
        findings += self._gaps(folder, images, masks)
        return [
            Case(f"{folder.name}/{name}", path, folder.name, masks=tuple(masks[name])) for name, path in images.items()
        ]

    def _gaps(self, folder: Path, images: dict[str, Path], masks: dict[str, list[Path]]) -> list[Finding]:
        kind: FindingKind = "note" if self.partial else "missing"
        fix = "" if self.partial else "; copy the rest there, or accept a part with --options.partial true"
        num_images, num_masks = RELEASED[folder.name]
        found = sum(map(len, masks.values()))
        gaps = []
        if len(images) < num_images or found < num_masks:
            held = f"{len(images)} of {num_images} images and {found} of {num_masks} masks are here"
            gaps.append(Finding(folder, kind, held + fix))
        for name in sorted(masks.keys() - images.keys()):
            gaps += [Finding(path, kind, f"a mask without its image, {name}") for path in masks[name]]
        gaps += [Finding(path, kind, "an image without a mask") for name, path in images.items() if name not in masks]
        return gaps

    def _without_faults(self, cases: list[Case], root: Path, findings: list[Finding]) -> list[Case]:
        left_out: dict[str, str] = {}  # image -> its fault, an image with two counting for the first
        if self.axilla == "drop":
            left_out |= dict.fromkeys(listed_faults()["axilla"], "axilla image")
        if self.faults == "drop":
            left_out |= dict.fromkeys(listed_faults()["conflict"], "conflicting label")
            left_out |= dict.fromkeys(listed_faults()["duplicate"], "duplicate")
        dropped = [left_out[case.path.name] for case in cases if case.path.name in left_out]
        if dropped:
            counts = ", ".join(count(dropped.count(fault), fault) for fault in sorted(set(dropped)))
            dropping = [name for name in ("faults", "axilla") if getattr(self, name) == "drop"]
            options = " ".join(f"--options.{name} keep" for name in dropping)
            findings.append(Finding(root, "note", f"left out as {FAULTS} lists them: {counts}; {options} keeps them"))
        return [case for case in cases if case.path.name not in left_out]


@cache
def listed_faults() -> dict[str, frozenset[str]]:
    """Return the names of faulty images by fault: duplicate, conflict, axilla."""
    text = files("arl_lightning.data.tasks").joinpath(FAULTS).read_text(encoding="utf-8")
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    return {
        fault: frozenset(row["image"] for row in rows if row["fault"] == fault)
        for fault in ("duplicate", "conflict", "axilla")
    }
