"""Reads the fatty-liver data set of Byra et al., one MATLAB file.

F frames of a patient, H x W pixels; `images` of a patient is uint8, (F, H, W) = (10, 434, 636).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError, matfile_version

from arl_lightning.data.media import UnreadableError, check_size, reason_of
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.layout import require
from arl_lightning.data.sources.source import Unit
from arl_lightning.errors import UserError

FILE = "dataset_liver_bmodes_steatosis_assessment_IJCARS.mat"
VARIABLE = "data"
WHERE = "ask Zenodo for record 1009146"
SPACING_MM = (0.373, 0.373)


@dataclass(frozen=True)
class FattyLiver:
    """B-mode liver of 55 severely obese patients, 10 consecutive frames of each.

    Layout:
        dataset_liver_bmodes_steatosis_assessment_IJCARS.mat    MATLAB 5 file, about 52 MB
            data    1 x 55 struct array, one element a patient
                id      number of the patient
                class   1 for a fatty liver, else 0 (not read)
                fat     share of hepatocytes with steatosis in percent, from biopsy (not read)
                images  10 x 434 x 636 uint8: frame, row, column

        An element is a patient and a clip; the frame's place along the first axis is its number. Variable, fields and
        shape agree in a dozen public programs that load the file. The frames are taken for one short clip because
        descriptions of the set call them consecutive; the pixel size of 0.373 mm is quoted from one such description.
        Neither could be checked against the article, and the frame rate is not stated.

    Citation:
        M. Byra, G. Styczynski, C. Szmigielski, P. Kalinowski, L. Michalowski, R. Paluszkiewicz,
        B. Ziarkiewicz-Wroblewska, K. Zieniewicz, P. Sobieraj, A. Nowicki, "Transfer learning with deep convolutional
        neural network for liver steatosis assessment in ultrasound images", International Journal of Computer Assisted
        Radiology and Surgery 13, 2018, doi:10.1007/s11548-018-1843-2; data doi:10.5281/zenodo.1009146.

    Licence:
        Creative Commons Attribution 4.0, as others who redistribute the set state it; see the record.

    Access:
        Open download from Zenodo, record 1009146.

    Faults:
        The ten frames of a patient differ little: 550 images hold about 55 views.

    Attributes:
        root: The folder that holds the file.
        anatomy: The anatomy of all images.
    """

    root: Path
    anatomy: str = "liver"
    name = "fatty_liver"

    def units(self) -> list[Unit]:
        """List the file, as one unit: a part of a compressed MATLAB file cannot be read without the whole.

        Loading a file of this size took about 1 s and 0.5 GB: sharing 550 images out over processes would multiply
        that and save little.

        Raises:
            UserError: If the file is missing, is no MATLAB 5 file or lacks the variable `data`.
        """
        require(self.root, [FILE], "the fatty-liver data set", WHERE)
        _check_file(self.root / FILE)
        return [Unit(FILE, self.root / FILE)]

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield each patient's frames; a patient whose element is damaged becomes a `Rejected`."""
        try:
            elements = loadmat(unit.path, variable_names=[VARIABLE])[VARIABLE].ravel()
        except Exception as error:  # damage surfaces as OSError, zlib.error, ValueError, TypeError, ...
            yield Rejected(unit.path, reason_of(unit.path, error))
            return
        for index, element in enumerate(elements, start=1):
            try:
                patient, images = _patient_images(element)
            except UnreadableError as error:
                yield Rejected(unit.path, f"{VARIABLE}({index}): {error}")
                continue
            yield from self._samples(f"{VARIABLE}({index:02d})", patient, images)

    def _samples(self, video: str, patient: str, images: np.ndarray) -> Iterator[Sample]:
        for frame, image in enumerate(images):  # (F, H, W) -> F times (H, W)
            yield Sample(
                image=np.ascontiguousarray(image),  # MATLAB stores columns first
                anatomy=self.anatomy,
                source=self.name,
                name=f"{video}#{frame:06d}",
                patient=patient,
                video=video,
                frame=frame,
                spacing_mm=SPACING_MM,
            )


def _check_file(path: Path) -> None:
    try:
        major, _ = matfile_version(path, appendmat=False)
    except (ValueError, MatReadError) as error:
        raise UserError(f"{path}: not a MATLAB file; download it again ({WHERE})") from error
    if major == 2:
        raise UserError(
            f"{path}: a MATLAB 7.3 file, while the release is MATLAB 5; download it again ({WHERE}), or save it in"
            f" MATLAB with the option '-v7'"
        )
    try:
        variables = {name: kind for name, _, kind in whosmat(path, appendmat=False)}
    except Exception:  # damage behind an intact header: reading rejects the file and says why
        return
    if variables.get(VARIABLE) != "struct":
        raise UserError(
            f"{path}: holds no struct array '{VARIABLE}', only {', '.join(variables) or 'nothing'}; is it the file of"
            f" the fatty-liver data set? ({WHERE})"
        )


def _patient_images(element: np.void) -> tuple[str, np.ndarray]:
    """Return a patient's number and frames, uint8 (F, H, W)."""
    lacking = {"id", "images"} - set(element.dtype.names or ())
    if lacking:
        raise UnreadableError(f"has no field '{min(lacking)}'")
    number, images = np.asarray(element["id"]), element["images"]
    if number.size != 1 or not np.issubdtype(number.dtype, np.number):
        raise UnreadableError("its field 'id' is not a number")
    if images.ndim != 3 or images.dtype != np.uint8 or not len(images):
        raise UnreadableError(f"images are {images.dtype} {images.shape}, not uint8 (frames, rows, columns)")
    check_size(*images.shape[1:])
    return f"{number.item():g}", images
