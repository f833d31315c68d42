"""Reads the COVID-19 lung ultrasound collection of Born et al., stills and clips gathered from many places."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.media import IMAGE_SUFFIXES, decode_image
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.folder import check_fps, clip_samples, find_media
from arl_lightning.data.sources.layout import read_csv, require
from arl_lightning.data.sources.lists import read_lines
from arl_lightning.data.sources.source import Unit
from arl_lightning.errors import UserError

TABLE = "data/dataset_metadata.csv"
FOLDERS = ("data/pocus_images", "data/pocus_videos")
PROBES = ("convex", "linear")
WHERE = "clone Jannis Born's repository covid19_ultrasound"

NAME, LICENCE, PROBE, GENDER = "Filename", "License", "Probe", "Gender"
PATIENT, AFTER_PATIENT = "Patient ID / Name", "Lung /abdomen interface"

Row = dict[str, str]


@dataclass(frozen=True)
class Pocus:
    """More than 200 clips and about 60 stills of lungs, with and without COVID-19 or pneumonia; a downstream set.

    What leaks: COVID-19 benchmarks split these very files, each its own way, so that any of them may be somebody's test
    data; frames of one clip, clips of one patient and stills of one publication belong together. Name the training
    part of the benchmark in `files`, or leave the set out of a corpus whose model will be tested on it.

    Layout:
        covid19_ultrasound/
            data/
                dataset_metadata.csv            one row a recording, also of those that are not in the repository
                pocus_images/{convex,linear}/   .jpg, .png
                pocus_videos/{convex,linear}/   .mp4, .avi, .gif, .mov, .mpeg

        Checked on the repository's files. Everything below the two folders is read, nothing beside them (`data` also
        holds images with artefacts, and derived frames after its scripts have run). The probe is the folder's name. A
        row belongs to the file of its name without suffix, and of its probe where two rows share a name; the patient is
        the number in `Patient ID / Name`, which counts through all origins. A file without a row is read too, with
        neither patient nor licence known.

    Citation:
        J. Born, N. Wiedemann, M. Cossio, C. Buhre, G. Brandle, K. Leidermann, A. Aujayeb, M. Moor, B. Rieck,
        K. Borgwardt, "Accelerating Detection of Lung Pathologies with Explainable Ultrasound Image Analysis", Applied
        Sciences 11(2) 672, 2021, doi:10.3390/app11020672.

    Licence:
        Each file has its own, in the column `License`: mostly CC BY-NC 4.0, CC BY 4.0, CC BY-NC-SA, also CC BY 2.0,
        CC BY-NC-ND, a COVID-19 emergency licence, and None. Credit the origin that the row names.

    Access:
        Open, from the GitHub repository covid19_ultrasound of Jannis Born.

    Faults:
        Four rows stand one column too far to the right from `Framerate` on, where the age lands in the patient's
        column: their patient is read from the column after it. The collectors cropped the clips, some of which are
        shorter than 30 frames. Labels come from many hands, and those of 45 clips (`Cov_bolzano`) are uncertain.

    Attributes:
        root: The repository's folder, which holds `data`.
        anatomy: The anatomy of all images.
        fps: Frames taken from each second of a clip; 3 as by the authors' script, which also stops after 30 frames.
        licences: Read only files under these, spelled as in the table up to case, blanks and hyphens; all by default.
        files: A text file that names the files to read, one a line, by their name or their path below the root.
    """

    root: Path
    anatomy: str = "lung"
    fps: float = 3.0
    licences: tuple[str, ...] = ()
    files: Path | None = None
    name = "pocus"

    def __post_init__(self) -> None:
        check_fps(self.fps)

    def units(self) -> list[Unit]:
        """List the stills and clips.

        Raises:
            UserError: If a folder, the table or a column is missing, no row has a licence that `licences` names,
                `files` names a file that is not there, or nothing is left to read.
        """
        require(self.root, [TABLE, *FOLDERS], "POCUS", WHERE)
        rows = Rows(read_csv(self.root / TABLE, [NAME, LICENCE, PROBE, GENDER, PATIENT, AFTER_PATIENT], where=WHERE))
        rows.check_licences(self.licences, self.root / TABLE)
        paths = self._named(sorted(path for folder in FOLDERS for path in find_media(self.root / folder)))
        units = [self._unit(path, rows) for path in paths if rows.allows(path, self.licences)]
        if not units:
            restriction = f" under {' or '.join(self.licences)}" if self.licences else ""
            raise UserError(f"{self.root}: holds no still or clip{restriction}; {WHERE}, or allow more licences")
        return units

    def _named(self, paths: list[Path]) -> list[Path]:
        if self.files is None:
            return paths
        wanted = set(read_lines(self.files, "name the files to read there, one a line"))
        kept = {path: {path.name, path.relative_to(self.root).as_posix()} & wanted for path in paths}
        absent = sorted(wanted.difference(*kept.values()))
        if absent:
            more = f" and {len(absent) - 1:,} more" if absent[1:] else ""
            raise UserError(f"{self.files}: names {absent[0]}{more}, which {self.root} lacks; correct or copy them")
        return [path for path, names in kept.items() if names]

    def _unit(self, path: Path, rows: "Rows") -> Unit:
        return Unit(
            path.relative_to(self.root).as_posix(), path, {"patient": rows.patient(path), "probe": _probe(path)}
        )

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield a still, or a clip's frames; a clip with a fault midway yields its frames before the fault first."""
        patient, probe = unit.details["patient"], unit.details["probe"]
        if unit.path.suffix.lower() not in IMAGE_SUFFIXES:
            yield from clip_samples(unit, self.anatomy, self.name, self.fps, patient, probe)
            return
        image = decode_image(unit.path)
        if isinstance(image, Rejected):
            yield image
        else:
            yield Sample(image, self.anatomy, self.name, unit.name, patient, probe=probe)


class Rows:
    """The table's rows, found by a file's name."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._by_name: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            self._by_name[row[NAME].strip().casefold()].append(row)
        self._licences = {_plain(row[LICENCE]): row[LICENCE].strip() for row in rows}

    def check_licences(self, licences: Sequence[str], table: Path) -> None:
        """Raise a UserError if no row has one of these licences."""
        unknown = [licence for licence in licences if _plain(licence) not in self._licences]
        if unknown:
            known = ", ".join(sorted(self._licences.values()))
            raise UserError(f"licences: no file in {table} is under '{unknown[0]}'; choose from {known}")

    def allows(self, path: Path, licences: Sequence[str]) -> bool:
        """Return whether a file is under one of these licences; any is where there are none."""
        if not licences:
            return True
        row = self.row(path)
        return row is not None and _plain(row[LICENCE]) in {_plain(licence) for licence in licences}

    def patient(self, path: Path) -> str | None:
        """Return who a file shows, None where unknown."""
        row = self.row(path)
        if row is None:
            return None
        shifted = row[GENDER].strip().isdigit()  # then the number of frames stands there
        return row[AFTER_PATIENT if shifted else PATIENT].strip() or None

    def row(self, path: Path) -> Row | None:
        """Return a file's row, of the same probe where two rows share its name."""
        candidates = self._by_name.get(path.stem.casefold(), [])
        return max(candidates, key=lambda row: _likeness(row, path), default=None)


def _likeness(row: Row, path: Path) -> tuple[bool, bool]:
    return row[NAME].strip() == path.stem, row[PROBE].strip().lower() == _probe(path)


def _plain(licence: str) -> str:
    return "".join(character for character in licence.casefold() if character not in " -")


def _probe(path: Path) -> str | None:
    folders = [part.lower() for part in path.parts[-3:-1]]  # `linear` itself, or a folder below it
    return next((folder for folder in folders if folder in PROBES), None)
