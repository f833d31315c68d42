"""Reads BUSI, breast ultrasound images from Cairo, the downstream task's set."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.layout import require
from arl_lightning.data.sources.lists import read_lines
from arl_lightning.data.sources.source import Unit
from arl_lightning.data.sources.stills import image_files, read_still, refuse_empty
from arl_lightning.errors import UserError

CLASSES = ("benign", "malignant", "normal")
LIST = "a text file with one image's name a line, such as 'benign (12).png'"
WHERE = "Cairo University, A. Fahmy's page of data sets; article doi:10.1016/j.dib.2019.104863"


@dataclass(frozen=True)
class Busi:
    """BUSI: 780 images of 600 women, 437 benign, 210 malignant, 133 normal.

    **This is the set of the `busi` task. Packed whole for pretraining it leaks the task's test images into the
    encoder**: give `images`, the list of the task's training images, and nothing else is read.

    Layout:

        Dataset_BUSI_with_GT/
          benign/benign (1).png
          benign/benign (1)_mask.png, benign (100)_mask_1.png, ...     not read
          malignant/malignant (1).png, ...
          normal/normal (1).png, ...

    Citation:
        Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast ultrasound images. Data in Brief 28:104863, 2020,
        doi:10.1016/j.dib.2019.104863.

    Licence:
        None stated for the data; the article is CC BY 4.0.

    Access:
        The page of data sets of A. Fahmy, Cairo University.

    Faults:
        No patient identity, hence no split by patient; duplicates and near-duplicates, some of them in two classes;
        images of the axilla; burned-in callipers, text and body marks (Pawłowska A, Karwat P, Żołek N. Letter to the
        Editor. Re: "Dataset of breast ultrasound images". Data in Brief 48:109247, 2023).

    Attributes:
        root: The folder that holds the three classes' folders.
        anatomy: The anatomy of all images.
        images: A text file with one image's name a line, such as `benign (12).png`, of the only images to read; all
            where None.
    """

    root: Path
    anatomy: str = "breast"
    images: Path | None = None
    name = "busi"

    def units(self) -> list[Unit]:
        """List the images, or those of `images`, sorted by name.

        Raises:
            UserError: If the folder is not this data set or holds no image, or `images` is no list of its images.
        """
        require(self.root, CLASSES, "BUSI", WHERE)
        paths = [p for label in CLASSES for p in image_files(self.root / label) if "_mask" not in p.stem]
        if self.images is not None:
            wanted = set(read_lines(self.images, f"images must name {LIST}"))
            _refuse_unknown(wanted - {path.name for path in paths}, self.images, self.root)
            paths = [path for path in paths if path.name in wanted]
        refuse_empty(paths, self.root, "BUSI", WHERE)
        return [Unit(path.relative_to(self.root).as_posix(), path) for path in sorted(paths)]

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield an image."""
        yield read_still(unit.path, self.anatomy, self.name, unit.name)


def _refuse_unknown(names: set[str], images: Path, root: Path) -> None:
    if names:
        raise UserError(
            f"{images}: names '{min(names)}' ({len(names)} such), which {root} does not hold; images must name {LIST}"
        )
