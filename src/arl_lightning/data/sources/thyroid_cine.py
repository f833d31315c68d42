"""Reads Stanford AIMI's thyroid ultrasound cine-clips from their HDF5 file.

Shapes: `image` is (N, 802, 1054) uint8, N frames of all clips; one frame, (802, 1054), is in memory at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py

from arl_lightning.data.media import check_size, reason_of
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.layout import read_csv, require
from arl_lightning.data.sources.source import Unit
from arl_lightning.data.sources.stills import check_every
from arl_lightning.errors import UserError

FRAMES, TABLE = "dataset.hdf5", "metadata.csv"
ARRAYS = ("annot_id", "frame_num", "image")
WHERE = "Stanford AIMI shared datasets, doi:10.71718/7m5n-rh16"


@dataclass(frozen=True)
class ThyroidCine:
    """Thyroid Ultrasound Cine-clip: 192 clips, one a biopsied nodule, of 167 patients; 17,412 frames.

    Layout:

        dataset.hdf5    36 GB, four arrays with one row a frame:
                          annot_id   (17412,) bytes of 4, such as `129_`, the clip
                          frame_num  (17412,) bytes of 3, such as `7`, counted from 1 in the clip, with gaps
                          image      (17412, 802, 1054) uint8, grey
                          mask       the same, the nodule; not read
        metadata.csv    annot_id, age, sex, location, size_x, size_y, size_z, ti-rads_composition, ...,
                        ti-rads_level, histopath_diagnosis; 192 rows

        Names, types and shapes are those that a notebook printed of the released files, the table's those of the file.

        Patients: the release does not tell them. `annot_id` counts nodules, not patients, so that splitting by it puts
        two nodules of one patient on both sides. We take neighbours in the table of the same age and sex for one
        patient: 162 groups, where the authors state 167 patients, so at most a few strangers share a group. This is our
        reading, made to keep splits apart, and no identity of the authors'.

    Citation:
        Yamashita R, Kapoor T, Alam MN, et al. Toward Reduction in False-Positive Thyroid Nodule Biopsies with a Deep
        Learning-based Risk Stratification System Using US Cine-Clip Images. Radiology: Artificial Intelligence
        4(3):e210174, 2022, doi:10.1148/ryai.210174.

    Licence:
        Stanford's Research Use Agreement for this set: personal, non-commercial research, each user registers, no
        redistribution of any part and no derivative works. Shards of it must not leave the registered user's hands.

    Access:
        Stanford AIMI shared datasets, doi:10.71718/7m5n-rh16.

    Faults:
        Only frames that show the nodule; linear and convex probes, which nothing tells apart; rows of a clip lie
        together, clips in no order. How the file is chunked could not be confirmed; a frame is read alone in any case.

    Attributes:
        root: The folder that holds both files.
        anatomy: The anatomy of all frames.
        every: Take every n-th of a clip's stored frames, from its first.
    """

    root: Path
    anatomy: str = "thyroid"
    every: int = 5
    name = "thyroid_cine"

    def __post_init__(self) -> None:
        check_every(self.every)

    def units(self) -> list[Unit]:
        """List the clips, sorted by name; `details` holds the patient and (frame, row) of the frames to read.

        Raises:
            UserError: If the folder is not this data set, or a table or an array is missing or malformed.
        """
        require(self.root, [FRAMES, TABLE], "the thyroid ultrasound cine-clips", WHERE)
        patients = _patients(read_csv(self.root / TABLE, ["annot_id", "age", "sex"], where=WHERE))
        clips = _clips(self.root / FRAMES)
        return [
            Unit(clip, self.root / FRAMES, {"patient": patients.get(clip), "rows": clips.get(clip, [])[:: self.every]})
            for clip in sorted(patients.keys() | clips.keys())
        ]

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield a clip's frames; a damaged row costs that frame alone."""
        patient, rows = unit.details["patient"], unit.details["rows"]
        if patient is None or not rows:
            missing = f"no row in {TABLE}" if patient is None else f"no frame in {FRAMES}"
            yield Rejected(unit.path, f"clip {unit.name}: {missing}")
            return
        try:
            with h5py.File(unit.path) as file:
                yield from self._frames(file["image"], unit, patient, rows)
        except (OSError, KeyError) as error:
            yield Rejected(unit.path, f"clip {unit.name}: {reason_of(unit.path, error)}")

    def _frames(
        self, images: h5py.Dataset, unit: Unit, patient: str, rows: list[tuple[int, int]]
    ) -> Iterator[Sample | Rejected]:
        seen: set[int] = set()
        for frame, row in rows:
            if frame in seen:
                yield Rejected(unit.path, f"clip {unit.name}: row {row} repeats frame_num {frame + 1}")
                continue
            seen.add(frame)
            try:
                check_size(*images.shape[1:])
                image = images[row]  # (N, H, W) -> (H, W)
            except Exception as error:  # a filter of HDF5 may raise anything, as media.py's decoders do
                yield Rejected(unit.path, f"clip {unit.name}, row {row}: {reason_of(unit.path, error)}")
                continue
            name = f"{unit.name}#{frame:06d}"
            yield Sample(image, self.anatomy, self.name, name, patient, unit.name, frame)


def _patients(rows: list[dict[str, str]]) -> dict[str, str]:
    """Give each clip the first `annot_id` of the neighbours in the table that share its age and sex."""
    patients: dict[str, str] = {}
    patient, last = "", ("", "")
    for row in rows:
        clip, person = row["annot_id"].strip(), (row["age"].strip(), row["sex"].strip().lower())
        if person != last or not all(person):
            patient = clip
        patients[clip], last = patient, person
    return patients


def _clips(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Return the frames of each clip as (frame, row), sorted; frames count from 0."""
    try:
        with h5py.File(path) as file:
            _check_arrays(path, file)
            clips, frames = file["annot_id"][:].tolist(), file["frame_num"][:].tolist()
    except OSError as error:
        raise UserError(f"{path}: no readable HDF5 file ({error}); download it again ({WHERE})") from error
    rows: dict[str, list[tuple[int, int]]] = {}
    for row, (clip, frame) in enumerate(zip(clips, frames, strict=True)):
        try:
            name = clip.decode() if isinstance(clip, bytes) else str(clip)
            rows.setdefault(name.strip(), []).append((int(frame) - 1, row))
        except ValueError as error:
            raise UserError(f"{path}: row {row} is malformed ({error}); download it again ({WHERE})") from error
    return {clip: sorted(frames) for clip, frames in rows.items()}


def _check_arrays(path: Path, file: h5py.File) -> None:
    lacking = [name for name in ARRAYS if name not in file]
    if lacking:
        raise UserError(
            f"{path}: has no array '{lacking[0]}', only {', '.join(file) or 'none'}; is it this data set's? ({WHERE})"
        )
    images, rows = file["image"], {file[name].shape[0] for name in ARRAYS}
    if images.ndim != 3 or images.dtype != "uint8" or len(rows) != 1:
        shapes = ", ".join(f"{name} {file[name].shape} {file[name].dtype}" for name in ARRAYS)
        raise UserError(f"{path}: {shapes}; image must be (frames, height, width) uint8, the others as long ({WHERE})")
