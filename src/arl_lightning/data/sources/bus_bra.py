"""Reads BUS-BRA, breast ultrasound images from Rio de Janeiro."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.layout import read_csv, require
from arl_lightning.data.sources.source import Unit
from arl_lightning.data.sources.stills import read_still, table_units

TABLE = "bus_data.csv"
WHERE = "Zenodo, doi:10.5281/zenodo.8231412"


@dataclass(frozen=True)
class BusBra:
    """BUS-BRA: 1,875 images of 1,064 patients with biopsied lesions, one or two views each.

    Layout:
        As in the archive `BUSBRA.zip`:

        BUSBRA/
          bus_data.csv              ID, Case, Histology, Pathology, BIRADS, Device, Width, Height, Side, BBOX
          5-fold-cv.csv, 10-fold-cv.csv     not read
          Images/bus_0001-l.png     named by ID; the side is l, r, or s where there is one view
          Masks/mask_0001-l.png     not read

        `Case` is the patient; the cross-validation folds of the release are disjoint in it too.

    Citation:
        Gómez-Flores W, Gregorio-Calas MJ, Coelho de Albuquerque Pereira W. BUS-BRA: A breast ultrasound dataset for
        assessing computer-aided diagnosis systems. Medical Physics 51(4):3110-3123, 2024, doi:10.1002/mp.16812.

    Licence:
        CC BY 4.0, as those who use the record report; the authors ask for the citation above.

    Access:
        Zenodo, doi:10.5281/zenodo.8231412.

    Faults:
        Four scanners, named in `Device` alone; only breasts with a lesion; the two sides of a patient often show the
        same lesion. An image without a row has no known patient and is rejected, a row without an image too.

    Attributes:
        root: The folder that holds `bus_data.csv`.
        anatomy: The anatomy of all images.
    """

    root: Path
    anatomy: str = "breast"
    name = "bus_bra"

    def units(self) -> list[Unit]:
        """List the images of the table and of the folder, sorted by name.

        Raises:
            UserError: If the folder is not this data set, or its table lacks a column.
        """
        require(self.root, ["Images", TABLE], "BUS-BRA", WHERE)
        rows = read_csv(self.root / TABLE, ["ID", "Case"], where=WHERE)
        return table_units(self.root, "Images", {f"{row['ID'].strip()}.png": row["Case"].strip() for row in rows})

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield an image."""
        if unit.details:
            yield read_still(unit.path, self.anatomy, self.name, unit.name, unit.details)
        else:
            yield Rejected(unit.path, f"no case in {TABLE}, so its patient is unknown")
