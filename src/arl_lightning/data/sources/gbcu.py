"""Reads GBCU, the gallbladder-cancer images of GBCNet, whose test split stays out by default."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.choices import check_choices
from arl_lightning.data.sources.layout import require
from arl_lightning.data.sources.lists import read_lines
from arl_lightning.data.sources.source import Unit
from arl_lightning.data.sources.stills import read_still
from arl_lightning.errors import UserError

Split = Literal["train", "test", "all"]

WHERE = "ask the GBC group of IIT Delhi for GBCU, under a signed licence"


@dataclass(frozen=True)
class Gbcu:
    """1,255 abdominal images of 218 patients with a normal, benign or malignant gallbladder; a downstream set.

    What leaks: the classification benchmark tests on the 122 images of `test.txt`, so only the 1,133 of `train.txt` are
    read by default; the authors split by patient.

    Layout:
        GBCU-Shared/
            imgs/im00001.jpg    or imgsQ/, a name that could not be confirmed; samples are named alike
            bbox_annot.json     boxes drawn by radiologists (not read)
            roi_pred.json       boxes found by the region network (not read)
            train.txt, test.txt one `im00001.jpg,0` a line; 0 normal, 1 benign, 2 malignant

        As the README within the release says, and as public programs read it. The release names no patient: unknown
        here, since nothing says that neighbouring numbers belong together. Nor does it state the transducer.

    Citation:
        S. Basu, M. Gupta, P. Rana, P. Gupta, C. Arora, "Surpassing the Human Accuracy: Detecting Gallbladder Cancer
        from USG Images with Curriculum Learning", CVPR, 2022, pages 20886-20896, arXiv:2204.11433.

    Licence:
        A licence agreement that permanent staff of an institution signs, for research, without redistribution, as
        catalogues state it. The wording could not be consulted: keep shards made of it inside the institution.

    Access:
        By request to the authors (Indian Institute of Technology Delhi and PGIMER Chandigarh) through the data page of
        their project GBCNet.

    Faults:
        The release holds 432 normal, 558 benign and 265 malignant images of 218 patients and tests on 122; articles
        that use it state other numbers of patients and of test images.

    Attributes:
        root: The folder with `imgs` and the lists.
        anatomy: The anatomy of all images.
        split: Which list to read: `train`, `test`, or `all` for both.
    """

    root: Path
    anatomy: str = "gallbladder"
    split: Split = "train"
    name = "gbcu"

    def __post_init__(self) -> None:
        check_choices("split", [self.split], get_args(Split))

    def units(self) -> list[Unit]:
        """List the images of the split.

        Raises:
            UserError: If the images or a list is missing, or a line of it is none of `NAME,CLASS`.
        """
        lists = [f"{split}.txt" for split in ("train", "test") if self.split in (split, "all")]
        folder = "imgsQ" if (self.root / "imgsQ").is_dir() and not (self.root / "imgs").is_dir() else "imgs"
        require(self.root, [folder, *lists], "GBCU", WHERE)
        names = {name for file in lists for name in _listed(self.root / file)}
        return [Unit(f"imgs/{name}", self.root / folder / name) for name in sorted(names)]

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield the image."""
        yield read_still(unit.path, self.anatomy, self.name, unit.name)


def _listed(path: Path) -> list[str]:
    names = []
    for line in read_lines(path, f"copy GBCU again ({WHERE})"):
        name, comma, label = (part.strip() for part in line.partition(","))
        if not (name and comma and label.isdigit()) or Path(name).name != name:
            raise UserError(f"{path}: '{line[:60]}' is not of the form im00001.jpg,0; copy GBCU again ({WHERE})")
        names.append(name)
    return names
