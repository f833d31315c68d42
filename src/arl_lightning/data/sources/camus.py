"""Reads CAMUS, apical echocardiograms in NIfTI or MetaImage files.

Shapes: a stored sequence is (F, H, W), a still (H, W) or (1, H, W); F frames, H rows along depth, W columns.
"""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813

from arl_lightning.data.media import UnreadableError, check_size, reason_of
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.choices import check_choices
from arl_lightning.data.sources.layout import require
from arl_lightning.data.sources.source import Unit
from arl_lightning.errors import UserError

VIEWS = ("2CH", "4CH")
WHERE = "CAMUS_public in the Human Heart Project database of CREATIS, Lyon"


@dataclass(frozen=True)
class Camus:
    """CAMUS: apical two- and four-chamber sequences of the heart, 500 patients.

    Layout:
        CAMUS_public/                                   the current release
            database_nifti/patient0001/
                patient0001_2CH_half_sequence.nii.gz    frames from end-diastole to end-systole
                patient0001_2CH_ED.nii.gz, patient0001_2CH_ES.nii.gz
                patient0001_2CH_half_sequence_gt.nii.gz, patient0001_2CH_ED_gt.nii.gz, ...
                the same for 4CH; Info_2CH.cfg, Info_4CH.cfg
            database_split/subgroup_training.txt, ...

        CAMUS/                                          the release of 2019
            training/patient0001/
                patient0001_2CH_sequence.mhd and .raw, patient0001_2CH_ED.mhd and .raw, ...
            testing/patient0001/...

        With `frames: all` the sequences are read and not the stills, which are frames of them; with `ed_es` only the
        stills. Segmentations (`_gt`) are never read. The patient is the folder; training and testing of 2019 number
        their patients independently, so that the part is in the identity. A video is a patient's view. Of a root with
        both releases the current one is read.

        Rows are depth, the apex of the sector is on top. SimpleITK gives (frame, height, width) of either format, as
        the authors' own evaluation script has it, which also takes the spacing to be in mm. Confirmed for NIfTI on 120
        JPEG renderings of ED and ES stills, which a public script made with the same call and no rotation: in all, the
        apex is on top. NiBabel gives (width, height, frame) of the same files, hence pictures that lie there. Not
        confirmed: MetaImage's orientation on real files, whether all pixels are stored in 8 bits (other types are taken
        if their values lie in 0..255), and what a sequence of 2019 shows before ED and after ES.

    Citation:
        Leclerc S, Smistad E, Pedrosa J, Ostvik A, et al., "Deep Learning for Segmentation Using an Open Large-Scale
        Dataset in 2D Echocardiography", IEEE Transactions on Medical Imaging 38 (2019) 2198-2210,
        doi:10.1109/TMI.2019.2900516.

    Licence:
        The authors ask that the paper be cited for any use. Users of the set report CC BY-NC-SA 4.0 with further
        terms; this could not be confirmed with the authors' page, read the terms that come with the download.

    Access:
        The Human Heart Project database of CREATIS, INSA Lyon, collection CAMUS_public.

    Faults:
        Where a four-chamber view could not be had a five-chamber view was kept, and part of the images is of poor
        quality (marked in Info_*.cfg): both on purpose, as in daily practice. Pixels need not be square.

    Attributes:
        root: The folder that holds `database_nifti`, or `training`.
        anatomy: The anatomy of all images.
        views: `2CH`, `4CH` or both.
        frames: `all` frames of the sequences, or the stills at `ed_es`.
        every: Take every n-th frame of a sequence, beginning with its first.
    """

    root: Path
    anatomy: str = "cardiac"
    views: tuple[str, ...] = VIEWS
    frames: Literal["all", "ed_es"] = "all"
    every: int = 1
    name = "camus"

    def units(self) -> list[Unit]:
        """List one unit a sequence or still that a patient's folder should hold.

        Raises:
            UserError: If the root is not CAMUS or holds none of the wanted files, or an option is wrong.
        """
        check_choices("views", self.views, VIEWS)
        check_choices("frames", [self.frames], ("all", "ed_es"))
        if self.every < 1:
            raise UserError(f"every: {self.every} takes no frame, give 1 for all of them or more")
        units = [unit for folder in self._patient_folders() for unit in self._patient_units(folder)]
        if not any(unit.path.is_file() for unit in units):
            lacking = f"{units[0].path if units else self.root / 'database_nifti/patient0001'}"
            raise UserError(
                f"{lacking}: missing, as are all others of its kind; unpack them ({WHERE}), or set frames to"
                f" {'ed_es' if self.frames == 'all' else 'all'}"
            )
        return sorted(units, key=lambda unit: unit.name)

    def _patient_folders(self) -> list[Path]:
        require(self.root, (), "CAMUS", WHERE)
        parts = ["database_nifti"] if (self.root / "database_nifti").is_dir() else ["training", "testing"]
        folders = [folder for part in parts for folder in sorted((self.root / part).glob("patient*"))]
        if not folders:
            raise UserError(
                f"{self.root}: holds neither database_nifti/patient0001 nor training/patient0001; --root must be the"
                f" folder of CAMUS as released ({WHERE})"
            )
        return [folder for folder in folders if folder.is_dir()]

    def _patient_units(self, folder: Path) -> Iterator[Unit]:
        is_nifti = folder.parent.name == "database_nifti"
        patient = folder.name if is_nifti else f"{folder.parent.name}/{folder.name}"
        sequence = "half_sequence" if is_nifti else "sequence"
        for view in self.views:
            for kind in [sequence] if self.frames == "all" else ["ED", "ES"]:
                path = folder / f"{folder.name}_{view}_{kind}{'.nii.gz' if is_nifti else '.mhd'}"
                details = {"patient": patient, "video": f"{patient}_{view}"}
                yield Unit(path.relative_to(self.root).as_posix(), path, details)

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield the frames of a sequence, or a still; a sequence cut short yields what comes before the cut."""
        is_sequence = self.frames == "all"
        for frame in decode_frames(unit.path, self.every if is_sequence else 1):
            if isinstance(frame, Rejected):
                yield frame
                continue
            yield Sample(
                image=frame.image,
                anatomy=self.anatomy,
                source=self.name,
                name=f"{unit.name}#{frame.index:06d}" if is_sequence else unit.name,
                patient=unit.details["patient"],
                video=unit.details["video"],
                frame=frame.index if is_sequence else None,
                probe="sector",
                spacing_mm=frame.spacing_mm,
            )


@dataclass(frozen=True)
class StoredFrame:
    """One frame, its index in the file, and its pixels' height and width in mm."""

    image: np.ndarray
    index: int
    spacing_mm: tuple[float, float]


def decode_frames(path: Path, every: int) -> Iterator[StoredFrame | Rejected]:
    """Yield every n-th frame of a NIfTI or MetaImage file as uint8 (H, W); a fault ends it with a `Rejected`.

    A MetaImage is read frame by frame. A gzipped NIfTI has to be read whole, about 20 MB here, and is refused whole if
    it is damaged.
    """
    index = 0
    try:
        reader = _open(path)
        width, height, *depth = reader.GetSize()
        check_size(height, width)
        column_mm, row_mm, *_ = (round(size, 6) for size in reader.GetSpacing())  # NIfTI holds them in float32
        # (H, W) or (F, H, W) -> (F, H, W)
        whole = _pixels(reader).reshape(-1, height, width) if path.suffix == ".gz" or not depth else None
        for index in range(0, depth[0] if depth else 1, every):
            pixels = _frame_pixels(reader, index) if whole is None else whole[index]
            yield StoredFrame(_to_uint8(pixels), index, (row_mm, column_mm))
    except Exception as error:  # SimpleITK, gzip and zlib raise many types
        yield Rejected(path, (f"frame {index}: " if index else "") + _reason(path, error))


def _open(path: Path) -> sitk.ImageFileReader:
    if not path.is_file():
        raise UnreadableError("missing")
    if path.suffix == ".gz":
        # SimpleITK fills what a cut or damaged NIfTI lacks with zeros and says nothing.
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # on orientation fields, which are not used here
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetDimension() not in (2, 3) or reader.GetNumberOfComponents() != 1:
        raise UnreadableError(f"{reader.GetDimension()} dimensions of {reader.GetNumberOfComponents()} values each")
    return reader


def _frame_pixels(reader: sitk.ImageFileReader, index: int) -> np.ndarray:
    width, height, _ = reader.GetSize()
    reader.SetExtractIndex((0, 0, index))
    reader.SetExtractSize((width, height, 0))  # 0 leaves the axis out
    return _pixels(reader)


def _pixels(reader: sitk.ImageFileReader) -> np.ndarray:
    return sitk.GetArrayFromImage(reader.Execute())


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if not (pixels.min() >= 0 and pixels.max() <= 255):
        raise UnreadableError(f"grey levels from {pixels.min():g} to {pixels.max():g}; 0 to 255 are expected")
    return np.rint(pixels).astype(np.uint8)


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, RuntimeError) and path.suffix == ".mhd":
        return "header or .raw file missing, cut short or of another format"
    return "not a NIfTI file" if isinstance(error, RuntimeError) else reason_of(path, error)
