"""Reads UDIAT "Dataset B", breast ultrasound images from Sabadell."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.layout import require
from arl_lightning.data.sources.source import Unit
from arl_lightning.data.sources.stills import image_files, read_still, refuse_empty

WHERE = "M. H. Yap, Manchester Metropolitan University, on request; article doi:10.1109/JBHI.2017.2731873"


@dataclass(frozen=True)
class Udiat:
    """UDIAT Dataset B: 163 images with lesions, 110 benign and 53 malignant, Siemens ACUSON Sequoia C512.

    Layout:

        Dataset_B/                  also distributed as BUS/
          DatasetB.xlsx             Image, Type, Diagnosis; not read
          original/000001.png
          GT/000001.png             masks; not read

        Numbering and folders are confirmed by several readers of the set; one counts 109 benign and 54 malignant.
        Nothing in the release tells patients: they are unknown here.

    Citation:
        Yap MH, Pons G, Martí J, Ganau S, Sentís M, Zwiggelaar R, Davison AK, Martí R. Automated breast ultrasound
        lesions detection using convolutional neural networks. IEEE Journal of Biomedical and Health Informatics
        22(4):1218-1226, 2018, doi:10.1109/JBHI.2017.2731873.

    Licence:
        Research use only, on application to the authors; the agreement's text could not be looked up, read it.

    Access:
        M. H. Yap, Manchester Metropolitan University, by e-mail.

    Faults:
        Small; sizes differ, 344 x 233 to 753 x 617 pixels among the images; at least one lesion in every image.

    Attributes:
        root: The folder that holds `original`.
        anatomy: The anatomy of all images.
    """

    root: Path
    anatomy: str = "breast"
    name = "udiat"

    def units(self) -> list[Unit]:
        """List the images, sorted by name.

        Raises:
            UserError: If the folder is not this data set or holds no image.
        """
        require(self.root, ["original"], "UDIAT Dataset B", WHERE)
        paths = image_files(self.root / "original")
        refuse_empty(paths, self.root / "original", "UDIAT Dataset B", WHERE)
        return [Unit(f"original/{path.name}", path) for path in paths]

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield an image."""
        yield read_still(unit.path, self.anatomy, self.name, unit.name)
