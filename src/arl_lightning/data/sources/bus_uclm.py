"""Reads BUS-UCLM, breast ultrasound scans from Ciudad Real."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.layout import read_csv, require
from arl_lightning.data.sources.source import Unit
from arl_lightning.data.sources.stills import read_still, table_units

TABLE = "INFO.csv"
WHERE = "Mendeley Data, doi:10.17632/7fvgj4jsp7"


@dataclass(frozen=True)
class BusUclm:
    """BUS-UCLM: 683 images of 38 patients, 419 without a lesion, one Siemens ACUSON S2000, 2022 to 2023.

    Layout:

        BUS-UCLM/
          INFO.csv              Image;Resolution;Label;Doppler;Marks;Combined, separated by semicolons;
                                the last three say Yes or No
          images/ALWI_000.png   named in `Image`; the four letters stand for the patient
          masks/ALWI_000.png    green benign, red malignant; not read

        Columns and separator are confirmed by three independent readers of the set. What `Combined` means is taken from
        its name: several views, or B-mode beside Doppler, in one picture.

    Citation:
        Vallez N, Bueno G, Deniz O, Rienda MA, Pastor C. BUS-UCLM: Breast ultrasound lesion segmentation dataset.
        Scientific Data 12:242, 2025, doi:10.1038/s41597-025-04562-3.

    Licence:
        CC BY-NC 4.0 in the authors' code repository; copies of the data state CC BY 4.0 as well, so look at the record
        that the data came from.

    Access:
        Mendeley Data, doi:10.17632/7fvgj4jsp7.

    Faults:
        Colour Doppler, callipers and combined views among the B-mode images, flagged in the table; the images of
        patient HESN differ in size from their masks; frames of one sweep are nearly alike.

    Attributes:
        root: The folder that holds `INFO.csv`.
        anatomy: The anatomy of all images.
        leave_out: Images to leave out: those that the table flags as showing Doppler, marks or combined views.
    """

    root: Path
    anatomy: str = "breast"
    leave_out: tuple[Literal["doppler", "marks", "combined"], ...] = ()
    name = "bus_uclm"

    def units(self) -> list[Unit]:
        """List the images of the table and of the folder, sorted by name.

        Raises:
            UserError: If the folder is not this data set, or its table lacks a column.
        """
        require(self.root, ["images", TABLE], "BUS-UCLM", WHERE)
        flags = [flag.capitalize() for flag in self.leave_out]
        rows = read_csv(self.root / TABLE, ["Image", *flags], delimiter=";", where=WHERE)
        flagged = {row["Image"].strip() for row in rows if any(row[flag].strip().lower() == "yes" for flag in flags)}
        patients = {name: name.split("_")[0] for name in (row["Image"].strip() for row in rows)}
        units = table_units(self.root, "images", patients)
        return [unit for unit in units if unit.path.name not in flagged]

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield an image."""
        if unit.details:
            yield read_still(unit.path, self.anatomy, self.name, unit.name, unit.details)
        else:
            yield Rejected(unit.path, f"no row in {TABLE}, so what it shows is unknown")
