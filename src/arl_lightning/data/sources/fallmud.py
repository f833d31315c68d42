"""Reads FALLMUD, longitudinal images of lower-leg muscles with masks of fascicles and aponeuroses."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.media import decode_image
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.layout import require
from arl_lightning.data.sources.source import Unit
from arl_lightning.data.sources.stills import image_files, refuse_empty

COLLECTIONS = ("NeilCronin", "RyanCunningham")
WHERE = "ask CEA List's Kalisteo site for FALLMUD"


@dataclass(frozen=True)
class Fallmud:
    """813 longitudinal images of lower-leg muscles in two collections, 309 by Cronin and 504 by Cunningham.

    Layout:
        FALLMUD/
            NeilCronin/
                images/img_00001.tif
                fascicle_masks/img_00001.tif
                aponeurosis_masks/img_00001.jpg
            RyanCunningham/
                images/0.jpg
                fascicle_masks/0.jpg
                aponeurosis_masks/0.jpg

        Only `images` is read. Folder and file names agree in several public programs that read the released archive;
        the release itself could not be consulted. File names tell no patient and no clip: both stay unknown, although
        Cunningham's images are frames of sequences at 25 frames/s of 8 volunteers. That all were taken with linear
        probes follows from their rectangular field of view.

    Citation:
        H. Michard, B. Luvison, Q.-C. Pham, A. J. Morales-Artacho, G. Guilhem, "AW-Net: automatic muscle structure
        analysis on B-mode ultrasound images for injury prevention", ACM BCB, 2021, doi:10.1145/3459930.3469531;
        R. Cunningham, M. B. Sanchez, G. May, I. Loram, "Estimating Full Regional Skeletal Muscle Fibre Orientation from
        B-Mode Ultrasound Images Using Convolutional, Residual, and Deconvolutional Neural Networks", Journal of Imaging
        4(2) 29, 2018, doi:10.3390/jimaging4020029; N. J. Cronin, T. Finni, O. Seynnes, "Fully automated analysis of
        muscle architecture from B-mode ultrasound images with deep learning", 2020, arXiv:2009.04790.

    Licence:
        Creative Commons Attribution-NonCommercial 4.0 for Cunningham's collection, as a catalogue of muscle data sets
        states it. The terms of the whole could not be confirmed: read them before downloading.

    Access:
        From the Kalisteo site of CEA List, page FALLMUD, as the archive FALLMUD.zip.

    Faults:
        Cunningham's aponeurosis masks lie rotated by 90 degrees against their images; masks hold JPEG noise. Without
        patients and clips, near-identical frames can fall on both sides of a random split.

    Attributes:
        root: The folder with the two collections.
        anatomy: The anatomy of all images.
    """

    root: Path
    anatomy: str = "muscle"
    name = "fallmud"

    def units(self) -> list[Unit]:
        """List the images.

        Raises:
            UserError: If a collection is missing or holds no image.
        """
        folders = [f"{collection}/images" for collection in COLLECTIONS]
        require(self.root, folders, "FALLMUD", WHERE)
        return [unit for folder in folders for unit in self._units(folder)]

    def _units(self, folder: str) -> list[Unit]:
        paths = image_files(self.root / folder)
        refuse_empty(paths, self.root / folder, "FALLMUD", WHERE)
        return [Unit(f"{folder}/{path.name}", path) for path in paths]

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield the image."""
        image = decode_image(unit.path)
        if isinstance(image, Rejected):
            yield image
        else:
            yield Sample(image, self.anatomy, self.name, unit.name, probe="linear")
