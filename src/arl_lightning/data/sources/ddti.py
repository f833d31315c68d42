"""Reads DDTI, thyroid ultrasound images from Bogotá with XML annotations."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.layout import require
from arl_lightning.data.sources.source import Unit
from arl_lightning.data.sources.stills import image_files, read_still, refuse_empty

IMAGE_NAME = re.compile(r"(?P<case>\d+)_\d+\.jpe?g", re.IGNORECASE)
WHERE = "CIM@LAB, Universidad Nacional de Colombia; article doi:10.1117/12.2073532"


@dataclass(frozen=True)
class Ddti:
    """DDTI: thyroid images with nodules, thyroiditis, goitres and cysts; 99 cases and 134 images when published.

    Layout:
        Flat (releases seen later hold 390 XML files and about 480 images):

        1.xml               <case>: number, age, sex, composition, echogenicity, margins, calcifications, tirads,
                            then a <mark> for each image with <image>1</image> and <svg>, polygons as JSON
        1_1.jpg, 1_2.jpg    <case>_<image>.jpg, 560 x 360 pixels at most

        The tags and the names of files are confirmed by several readers of the set, the root element's name by none.
        The case is the patient. A second, "processed" distribution (`1_or_data/image/0000.PNG`, 637 images) renumbers
        the images so that cases are lost; it is not this layout and is refused.

        The XML gives no patient that the file's name does not. It serves to notice what is missing: an image that a
        mark names and that is not there is rejected, and so is an XML file that cannot be parsed, while the case's
        images are read all the same. An image without XML is read.

    Citation:
        Pedraza L, Vargas C, Narváez F, Durán O, Muñoz E, Romero E. An open access thyroid ultrasound image database.
        10th International Symposium on Medical Information Processing and Analysis, Proc. SPIE 9287:92870W, 2015,
        doi:10.1117/12.2073532.

    Licence:
        "open access" in the article; no licence text could be found.

    Access:
        CIM@LAB, Universidad Nacional de Colombia.

    Faults:
        Two scans side by side in some images, annotations burned in, XML without marks or fields, and images that occur
        in more than one case: drop duplicates while packing.

    Attributes:
        root: The folder that holds the XML and JPEG files.
        anatomy: The anatomy of all images.
    """

    root: Path
    anatomy: str = "thyroid"
    name = "ddti"

    def units(self) -> list[Unit]:
        """List the images, and what the XML files show to be missing or broken, sorted by name.

        Raises:
            UserError: If the folder is missing or holds no image of this data set.
        """
        require(self.root, [], "DDTI", WHERE)
        paths = image_files(self.root)
        named = [path for path in paths if IMAGE_NAME.fullmatch(path.name)]
        refuse_empty(named, self.root, "DDTI, named <case>_<image>.jpg", WHERE)
        units = {path.name.lower(): _image_unit(path) for path in paths}
        for xml in sorted(self.root.glob("*.xml")):
            for unit in _faults(xml):
                units.setdefault(unit.name.lower(), unit)
        return sorted(units.values(), key=lambda unit: unit.name)

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield an image, or the fault that listing found."""
        if "fault" in unit.details:
            yield Rejected(unit.path, unit.details["fault"])
        else:
            yield read_still(unit.path, self.anatomy, self.name, unit.name, unit.details["patient"])


def _image_unit(path: Path) -> Unit:
    match = IMAGE_NAME.fullmatch(path.name)
    if match is None:
        return Unit(path.name, path, {"fault": "not named <case>_<image>.jpg, so its patient is unknown"})
    return Unit(path.name, path, {"patient": match["case"]})


def _faults(xml: Path) -> Iterator[Unit]:
    """Yield the XML file if it is broken, else an image for each mark, whether it is there or not."""
    try:
        marks = ElementTree.parse(xml).getroot().iter("mark")  # noqa: S314 (expat limits the growth of entities)
        numbers = [number.strip() for number in (mark.findtext("image") or "" for mark in marks)]
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        yield Unit(xml.name, xml, {"fault": f"XML that cannot be parsed ({error}); its images are read all the same"})
        return
    for number in numbers:
        if number.isdecimal():
            path = xml.with_name(f"{xml.stem}_{number}.jpg")
            yield Unit(path.name, path, {"fault": f"named in {xml.name}, but missing"})
