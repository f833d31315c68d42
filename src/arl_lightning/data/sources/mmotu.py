"""Reads MMOTU, ovarian tumours in B-mode, colour Doppler and contrast-enhanced ultrasound."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.choices import check_choices
from arl_lightning.data.sources.layout import require
from arl_lightning.data.sources.lists import read_lines
from arl_lightning.data.sources.source import Unit
from arl_lightning.data.sources.stills import image_files, read_still, refuse_empty

Part = Literal["2d", "ceus"]
Split = Literal["all", "train", "val"]

# The release calls the contrast-enhanced part OTU_3d, the article OTU_CEUS; it holds no volumes.
FOLDERS: dict[Part, str] = {"2d": "OTU_2d", "ceus": "OTU_3d"}
CEUS_FOLDER_OF_ARTICLE = "OTU_CEUS"
WHERE = "ask the authors through their repository MMOTU_DS2Net"


@dataclass(frozen=True)
class Mmotu:
    """1,469 two-dimensional and 170 contrast-enhanced images of ovarian tumours and normal ovaries.

    Layout:
        MMOTU/
            OTU_2d/
                images/1.JPG
                annotations/1.PNG, 1_binary.PNG, 1_binary_binary.PNG
                train.txt, val.txt              one image a line, without suffix: 1,000 and 469
                train_cls.txt, val_cls.txt      image with suffix, two blanks, class 0 to 7
            OTU_3d/                             the article's OTU_CEUS, 70 and 100 images
                images/, annotations/, train.txt, val.txt

        Only `images` is read, and with `split` the list. The authors' README and configuration name both folders,
        `images`, `annotations`, `train.txt` and `val.txt`; public programs that read OTU_2d agree on the rest. Both
        names of the second folder are accepted. The class lists of OTU_3d could not be confirmed and are not needed.
        Patients are not in the release: they stay unknown. Ovary is `other` in the vocabulary.

    Citation:
        Q. Zhao, S. Lyu, W. Bai, L. Cai, B. Liu, G. Cheng, M. Wu, X. Sang, M. Yang, L. Chen, "MMOTU: A Multi-Modality
        Ovarian Tumor Ultrasound Image Dataset for Unsupervised Cross-Domain Semantic Segmentation", 2022,
        arXiv:2207.06799.

    Licence:
        Creative Commons Attribution 4.0 at figshare, as others who redistribute OTU_2d state it; the authors'
        repository states none.

    Access:
        From the authors' repository MMOTU_DS2Net (user cv516Buaa on GitHub), which links both parts; parts of it also
        at figshare, doi:10.6084/m9.figshare.25058690.

    Faults:
        Of OTU_2d one user counted 216 images as colour Doppler; nothing in their names says which. Contrast-enhanced
        imaging (CEUS) shows the contrast agent's microbubbles in the vessels rather than tissue: leave it out with
        `parts: [2d]` where only tissue is wanted.

    Attributes:
        root: The folder with OTU_2d and OTU_3d.
        anatomy: The anatomy of all images.
        parts: `2d`, `ceus` or both.
        split: `train` or `val` (which the authors test on) reads that list, `all` every image.
    """

    root: Path
    anatomy: str = "other"
    parts: tuple[Part, ...] = ("2d", "ceus")
    split: Split = "all"
    name = "mmotu"

    def __post_init__(self) -> None:
        check_choices("parts", self.parts, get_args(Part))
        check_choices("split", [self.split], get_args(Split))

    def units(self) -> list[Unit]:
        """List the images of the parts.

        Raises:
            UserError: If a part's folder, or the split's list, is missing or names nothing.
        """
        folders = sorted({self._folder(part) for part in self.parts})
        needed = ["images"] if self.split == "all" else ["images", f"{self.split}.txt"]
        require(self.root, [f"{folder}/{entry}" for folder in folders for entry in needed], "MMOTU", WHERE)
        return [unit for folder in folders for unit in self._units(folder)]

    def _folder(self, part: Part) -> str:
        if part == "ceus" and (self.root / CEUS_FOLDER_OF_ARTICLE).is_dir():
            return CEUS_FOLDER_OF_ARTICLE
        return FOLDERS[part]

    def _units(self, folder: str) -> list[Unit]:
        images = self.root / folder / "images"
        paths = {path.stem: path for path in image_files(images)}
        refuse_empty(list(paths), images, "MMOTU", WHERE)
        if self.split != "all":
            listed = read_lines(self.root / folder / f"{self.split}.txt", f"copy MMOTU again ({WHERE})")
            # A listed image that is not there is read in vain, and so reported.
            paths = {stem: paths.get(stem, images / f"{stem}.JPG") for stem in listed}
        return [Unit(f"{folder}/images/{path.name}", path) for path in sorted(paths.values())]

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield the image."""
        yield read_still(unit.path, self.anatomy, self.name, unit.name)
