"""Reads HC18, standard planes of the fetal head."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.media import decode_image
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.choices import check_choices
from arl_lightning.data.sources.layout import read_csv, require
from arl_lightning.data.sources.source import Unit

# Folder -> its table.
PARTS = {"training_set": "training_set_pixel_size_and_HC.csv", "test_set": "test_set_pixel_size.csv"}
PIXEL_SIZE = "pixel size(mm)"
WHERE = "Zenodo, doi:10.5281/zenodo.1327317"
# 010_2HC.png is the second image of examination 010; 010_2HC_Annotation.png is its ground truth.
IMAGE_NAME = re.compile(r"(?P<examination>\d+)_\d*HC\.png", re.IGNORECASE)


@dataclass(frozen=True)
class Hc18:
    """HC18: 1,334 images of the fetal head in the standard plane, of 551 women.

    Layout:
        HC18/
            training_set/010_HC.png, 010_2HC.png, 010_HC_Annotation.png, ...
            training_set_pixel_size_and_HC.csv      filename, pixel size(mm), head circumference (mm)
            test_set/000_HC.png, ...
            test_set_pixel_size.csv                 filename, pixel size(mm)

        Annotations are not read. An image that a table lists and its folder lacks is reported; one that is not listed
        has no spacing. Images with the same number are of the same examination and look alike, the challenge's page
        says; that is the patient here, with the part in its identity as both parts count from 000.

    Citation:
        van den Heuvel TLA, de Bruijn D, de Korte CL, van Ginneken B, "Automated Measurement of Fetal Head Circumference
        Using 2D Ultrasound Images", PLOS ONE 13 (2018) e0200412, doi:10.1371/journal.pone.0200412.

    Licence:
        CC BY 4.0.

    Access:
        Zenodo, doi:10.5281/zenodo.1327317; the HC18 challenge at grand-challenge.org.

    Faults:
        Training numbers run to 805, but there are 551 women in all: a woman who was examined twice seems to have two
        numbers, so that splits are by examination and not strictly by woman. The probe is not given.

    Attributes:
        root: The folder that holds the parts and their tables.
        anatomy: The anatomy of all images; the vocabulary has no fetal class.
        parts: `training_set`, `test_set` or both.
    """

    root: Path
    anatomy: str = "other"
    parts: tuple[str, ...] = ("training_set", "test_set")
    name = "hc18"

    def units(self) -> list[Unit]:
        """List the images that the folders hold or the tables list.

        Raises:
            UserError: If the root is not HC18, a table lacks a column or an option is wrong.
        """
        check_choices("parts", self.parts, tuple(PARTS))
        require(self.root, [entry for part in self.parts for entry in (part, PARTS[part])], "HC18", WHERE)
        return sorted((unit for part in self.parts for unit in self._part_units(part)), key=lambda unit: unit.name)

    def _part_units(self, part: str) -> Iterator[Unit]:
        rows = read_csv(self.root / PARTS[part], ("filename", PIXEL_SIZE), where=WHERE)
        spacings = {row["filename"].strip(): _spacing_mm(row.get(PIXEL_SIZE, "")) for row in rows}
        for filename in {path.name for path in (self.root / part).iterdir()} | set(spacings):
            match = IMAGE_NAME.fullmatch(filename)
            if match:
                details = {"patient": f"{part}/{match['examination']}", "spacing_mm": spacings.get(filename)}
                yield Unit(f"{part}/{filename}", self.root / part / filename, details)

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield the image."""
        image = decode_image(unit.path)
        if isinstance(image, Rejected):
            yield image
        else:
            yield Sample(image, self.anatomy, self.name, unit.name, **unit.details)


def _spacing_mm(text: str) -> tuple[float, float] | None:
    """Return a square pixel's height and width, None for what is no size."""
    try:
        size = float(text)
    except ValueError:
        return None
    return (size, size) if math.isfinite(size) and size > 0 else None
