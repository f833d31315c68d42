"""Reads HMC-QU, apical echocardiograms of patients with and without myocardial infarction."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import openpyxl

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.choices import check_choices
from arl_lightning.data.sources.folder import check_fps, clip_samples
from arl_lightning.data.sources.layout import require
from arl_lightning.data.sources.source import Unit
from arl_lightning.errors import UserError

VIEWS = ("A2C", "A4C")
WHERE = "Kaggle, hmcqu-dataset by Aysen Degerli; ask its authors where the recordings are not in the download"


@dataclass(frozen=True)
class HmcQu:
    """HMC-QU: 162 apical four-chamber and 160 two-chamber recordings of the heart.

    Layout:
        HMC-QU Dataset/
            HMC-QU/A4C/ES0001 _4CH_1.avi, ...       the blank in the name is the release's
            HMC-QU/A2C/...
            A4C.xlsx, A2C.xlsx      ECHO (the recording's name), infarction by segment, frames of one cycle, masks
            LV Ground-truth Segmentation Masks/Mask_ES0001 _4CH_1.mat, ...    not read

        All recordings of a view's folder are read; one that the view's workbook lists and the folder lacks is
        reported (names are compared without blanks and case). In a workbook a recording's row has its name under ECHO
        and numbers after it; the second row of headings and the footnote have none.

        The patient is what stands before the first blank or underscore of the name (ES0001). Names of four-chamber
        recordings are confirmed by several programs that read them; it could not be confirmed that two-chamber
        recordings are named alike, which patients' joint identity over both views rests on. If a view's names begin
        otherwise, its patients stand for themselves.

    Citation:
        Degerli A, Zabihi M, Kiranyaz S, Hamid T, Mazhar R, Hamila R, Gabbouj M, "Early Detection of Myocardial
        Infarction in Low-Quality Echocardiography", IEEE Access 9 (2021) 34442-34453, doi:10.1109/ACCESS.2021.3059595.
        Degerli A, Kiranyaz S, Hamid T, Mazhar R, Gabbouj M, "Early Myocardial Infarction Detection over Multi-View
        Echocardiography", Biomedical Signal Processing and Control 87 (2024) 105448, doi:10.1016/j.bspc.2023.105448.

    Licence:
        CC BY-NC-SA 3.0 IGO as a user read it on the Kaggle page; not confirmed with the page itself.

    Access:
        Kaggle, data set hmcqu-dataset by Aysen Degerli; the recordings from its authors where the download lacks them.

    Faults:
        One audit of the Kaggle download found the workbooks and masks but no recordings. Sizes differ, 422 x 636 to
        768 x 1024 pixels. The first release (`HMC-QU Echos`, HMC_QU.xlsx, four-chamber only) is not read. The pixel
        size is not given.

    Attributes:
        root: The folder that holds `HMC-QU` and the workbooks.
        anatomy: The anatomy of all images.
        fps: Frames taken from each second of a recording, which has 25.
        views: `A2C`, `A4C` or both.
    """

    root: Path
    anatomy: str = "cardiac"
    fps: float = 5.0
    views: tuple[str, ...] = VIEWS
    name = "hmc_qu"

    def units(self) -> list[Unit]:
        """List the recordings that the folders hold or the workbooks list.

        Raises:
            UserError: If the root is not HMC-QU, a workbook cannot be read or an option is wrong.
        """
        check_fps(self.fps)
        check_choices("views", self.views, VIEWS)
        entries = [entry for view in self.views for entry in (f"HMC-QU/{view}", f"{view}.xlsx")]
        require(self.root, entries, "HMC-QU", WHERE)
        paths = sorted(path for view in self.views for path in self._recordings(view))
        return [Unit(path.relative_to(self.root).as_posix(), path, patient_of(path.stem)) for path in paths]

    def _recordings(self, view: str) -> list[Path]:
        folder = self.root / "HMC-QU" / view
        listed = {_key(name): folder / f"{name}.avi" for name in listed_recordings(self.root / f"{view}.xlsx")}
        present = {_key(path.stem): path for path in folder.iterdir() if path.suffix.lower() == ".avi"}
        return list((listed | present).values())

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield a recording's frames; a fault midway, or a missing file, ends it with a `Rejected`."""
        yield from clip_samples(unit, self.anatomy, self.name, self.fps, patient=unit.details, probe="sector")


def patient_of(stem: str) -> str:
    """Return the patient in a recording's name, `ES0001` of `ES0001 _4CH_1`."""
    return re.split(r"[\s_]", stem.strip())[0].upper()


def _key(stem: str) -> str:
    return re.sub(r"\s", "", stem).lower()


def listed_recordings(path: Path) -> list[str]:
    """Return the names under ECHO in a workbook's first sheet.

    Raises:
        UserError: If the file is no workbook or has no such column.
    """
    try:
        workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = list(workbook.worksheets[0].iter_rows(values_only=True))
        workbook.close()
    except (BadZipFile, KeyError, ValueError, OSError, IndexError) as error:
        raise UserError(f"{path}: not an Excel workbook ({error}); download it again ({WHERE})") from error
    header = [str(cell or "").strip().upper() for cell in rows[0]] if rows else []
    if "ECHO" not in header:
        raise UserError(f"{path}: has no column 'ECHO' in its first row; is it this data set's workbook? ({WHERE})")
    column = header.index("ECHO")
    return [
        row[column].strip()
        for row in rows[1:]
        if isinstance(row[column], str) and any(isinstance(cell, int | float) for cell in row)
    ]
