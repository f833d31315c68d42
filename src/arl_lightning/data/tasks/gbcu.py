"""GBCU: normal, benign and malignant gallbladders."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from arl_lightning.data.sources.choices import check_choices
from arl_lightning.data.sources.gbcu import WHERE
from arl_lightning.data.sources.layout import read_csv, require
from arl_lightning.data.sources.lists import read_lines
from arl_lightning.data.sources.stills import image_files, refuse_empty
from arl_lightning.data.tasks.case import Case, Finding, FindingKind, Listing, SplitName
from arl_lightning.data.tasks.gbcu_boxes import crop_to_boxes
from arl_lightning.data.tasks.table import NO_VALUES, table_listing
from arl_lightning.data.wording import count, one_line
from arl_lightning.errors import UserError

Classes = Literal["three", "tumour"]
Crop = Literal["none", "box"]

LABELS = ("normal", "benign", "malignant")  # as the lists number them
PARTS: tuple[SplitName, ...] = ("train", "test")
RELEASED = {"train": (401, 509, 223), "test": (31, 49, 42)}  # images of each label


@dataclass(frozen=True)
class Gbcu:
    """Tells normal, benign and malignant gallbladders apart in 1,255 abdominal images of 218 patients.

    Layout:
        GBCU-Shared/
            imgs/im00001.jpg    or imgsQ/, a name that could not be confirmed
            train.txt, test.txt one `im00001.jpg,0` a line
            bbox_annot.json     boxes drawn by radiologists (read where `crop` is box)
            roi_pred.json       boxes found by the region network (not read)

        As the README within the release says, and as public programs read it. No copy of the set was at hand.

    Boxes:
        {"im00001.jpg": {"dim": [width, height], "bbs": [["abn", [x0, y0, x1, y1]], ["stn", [...]]]}}

        The release's README states the order of the coordinates, that each image has one large box `nml` or `abn`
        around the gallbladder and its surroundings, and that other labels are of lesions, which the authors did not
        use. The keys `dim` and `bbs` are those that public programs read; they could not be compared with the file. Nor
        could whether the far edges belong to a box: here they do not.

        The authors' own loader opens `roi_pred.json` instead. It crops to the box `Gold`, or to each of the boxes
        `Boxes` that their region network found, from (1 - p) times the near to (1 + p) times the far coordinates with p
        0.15: more to the right and below than to the left and above. Here each side gains `margin` of the box's size.

    Labels:
        The number in the lists: 0 normal (432 images), 1 benign (558), 2 malignant (265).

    Split:
        The released one, by patient: 1,133 images of `train.txt` (401, 509 and 223 of the labels) and 122 of `test.txt`
        (31, 49, 42). A validation part is drawn from `train.txt`, by image where `patients` is not given. The paper's
        accuracies fit 277 test images, which no released list has.

    Citation:
        S. Basu, M. Gupta, P. Rana, P. Gupta, C. Arora, "Surpassing the Human Accuracy: Detecting Gallbladder Cancer
        from USG Images with Curriculum Learning", CVPR, 2022, pages 20886-20896, arXiv:2204.11433.

    Licence:
        A licence agreement that permanent staff of an institution signs, for research, without redistribution, as
        catalogues state it. The wording could not be consulted.

    Access:
        By request to the authors (Indian Institute of Technology Delhi and PGIMER Chandigarh) through the data page of
        their project GBCNet.

    Faults:
        The release names no patients, so that its split cannot be checked without them; articles that use it state
        other numbers of patients and of test images.

    Attributes:
        root: The folder with `imgs` and the lists.
        table: A csv file that is read instead.
        classes: three for normal, benign and malignant; tumour for normal against the two others, as the paper's.
        patients: A csv file, `image,patient`, from the authors: who is shown.
        crop: none for whole images; box for the radiologists' box around the gallbladder, in every part of the split.
            A run with box has learnt nothing of whole images, which `arl predict` reads as they are: give it cropped
            ones. Nor do its scores compare with those on whole images, for someone found the organ first. One picture
            under two names, with two boxes, is only found with none.
        margin: What is added to the box on each side, as a share of its width or height, from 0 to 1.
        partial: Accept a part of the released files.
    """

    root: Path
    table: Path | None = None
    classes: Classes = "three"
    patients: Path | None = None
    crop: Crop = "none"
    margin: float = 0.1
    partial: bool = False
    name = "gbcu"
    anatomy = "gallbladder"
    where = WHERE
    metrics = ("accuracy", "auroc")

    def __post_init__(self) -> None:
        check_choices("classes", [self.classes], get_args(Classes))
        check_choices("crop", [self.crop], get_args(Crop))
        if not 0 <= self.margin <= 1:
            raise UserError(f"margin {self.margin:g}: must be from 0 to 1, a share of the box's width or height")
        if self.crop == "box" and self.table is not None:
            raise UserError(
                f"{self.table}: crop box is for the released layout; crop a table's images before, or crop none"
            )

    def listing(self) -> Listing:
        """List the images that the lists name.

        Raises:
            UserError: If the images or a list is missing, a line of it is none of `NAME,LABEL`, none of the images is
                there, a table cannot be read, or boxes are wanted of a file that is missing or no such.
        """
        classes = LABELS if self.classes == "three" else ("normal", "tumour")
        positive = "tumour" if self.classes == "tumour" else None
        if self.table is not None:
            return table_listing(self.table, self.root, classes, positive, (), WHERE)
        folder = "imgsQ" if (self.root / "imgsQ").is_dir() and not (self.root / "imgs").is_dir() else "imgs"
        require(self.root, [folder, *(f"{part}.txt" for part in PARTS)], "GBCU", WHERE)
        here = {path.name: path for path in image_files(self.root / folder)}
        entries = [(part, name, label) for part in PARTS for name, label in _entries(self.root / f"{part}.txt")]
        findings = [*self._repeated(entries, self.root / folder), *self._counts(entries)]
        findings += self._gaps(entries, here, self.root / folder)
        patients = self._patients({name for _, name, _ in entries}, self.root / folder, findings)
        cases = {
            name: Case(f"imgs/{name}", here[name], self._class(label), patients.get(name), part)
            for part, name, label in entries
            if name in here
        }
        refuse_empty(list(cases), self.root / folder, "GBCU", WHERE)
        listed = [cases[name] for name in sorted(cases)]
        if self.crop == "box":
            listed, of_boxes = crop_to_boxes(listed, self.root / "bbox_annot.json", self.margin)
            findings += of_boxes
        return Listing(tuple(listed), classes, positive, (), tuple(findings))

    def _class(self, label: int) -> str:
        return "tumour" if self.classes == "tumour" and label else LABELS[label]

    def _repeated(self, entries: list[tuple[SplitName, str, int]], folder: Path) -> Iterator[Finding]:
        parts: dict[str, str] = {}
        for part, name, _ in entries:
            if name in parts:
                reason = f"{part}.txt names it, and {parts[name]}.txt before; delete one of the lines"
                yield Finding(folder / name, "inconsistent", reason)
            parts[name] = part

    def _counts(self, entries: list[tuple[SplitName, str, int]]) -> Iterator[Finding]:
        kind: FindingKind = "note" if self.partial else "inconsistent"
        fix = "" if self.partial else f"; copy GBCU again ({WHERE}), or accept it with --options.partial true"
        counts = Counter((part, label) for part, _, label in entries)
        for part in PARTS:
            found = tuple(counts[part, label] for label in range(len(LABELS)))
            if found != RELEASED[part]:
                said = [
                    ", ".join(f"{n} {name}" for n, name in zip(c, LABELS, strict=True)) for c in (found, RELEASED[part])
                ]
                yield Finding(self.root / f"{part}.txt", kind, f"names {said[0]} images; released are {said[1]}{fix}")

    def _gaps(
        self, entries: list[tuple[SplitName, str, int]], here: dict[str, Path], folder: Path
    ) -> Iterator[Finding]:
        kind: FindingKind = "note" if self.partial else "missing"
        fix = "" if self.partial else "; copy it there, or accept a part with --options.partial true"
        listed = {name: part for part, name, _ in entries}
        for name in sorted(listed.keys() - here.keys()):
            yield Finding(folder / name, kind, f"named in {listed[name]}.txt{fix}")
        extra = sorted(here.keys() - listed.keys())
        if extra:
            reason = f"{count(len(extra), 'image')} in neither list, such as {one_line(extra[0])}: left out"
            yield Finding(folder, "note", reason)

    def _patients(self, names: set[str], folder: Path, findings: list[Finding]) -> dict[str, str]:
        """Return the patient of each image that the user's table names."""
        if self.patients is None:
            return {}
        found: dict[str, str] = {}
        for row in read_csv(self.patients, ["image", "patient"], "write one of image,patient"):
            name, patient = Path(row.get("image", "").strip()).name, row.get("patient", "").strip()
            if patient.lower() in ("", *NO_VALUES):
                continue
            if found.setdefault(name, patient) != patient:
                reason = f"of patient {one_line(found[name])} and of {one_line(patient)} by {self.patients.name}"
                findings.append(Finding(folder / name, "inconsistent", f"{reason}; correct it"))
        unknown = sorted(names - found.keys())
        if unknown:
            reason = f"names no patient for {count(len(unknown), 'image')}, such as {one_line(unknown[0])}; complete it"
            findings.append(Finding(self.patients, "inconsistent", reason, whole=True))
        return found


def _entries(path: Path) -> Iterator[tuple[str, int]]:
    """Yield name and label of each line."""
    for line in read_lines(path, f"copy GBCU again ({WHERE})"):
        name, _, label = (part.strip() for part in line.partition(","))
        if not name or Path(name).name != name or label not in map(str, range(len(LABELS))):
            raise UserError(
                f"{path}: '{one_line(line[:60])}' is not of the form im00001.jpg,0 with a label from 0 to 2;"
                f" copy GBCU again ({WHERE})"
            )
        yield name, int(label)
