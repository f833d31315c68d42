"""Reads archives of DICOM ultrasound objects, de-identified on the way out."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from arl_lightning.data.anatomy import OTHER, AnatomyVocabulary
from arl_lightning.data.dicom.anatomy_rules import Rule, describe, first_match, load_rules, read_rules
from arl_lightning.data.dicom.area import TEXT_SEEN, Area, AreaOptions, find_areas, text_flag
from arl_lightning.data.dicom.deidentify import Secret, resolve_key
from arl_lightning.data.dicom.failures import reason_of
from arl_lightning.data.dicom.identity import patient_hash, probe_type, video_hash
from arl_lightning.data.dicom.listing import base_folder, find_objects
from arl_lightning.data.dicom.look import Look
from arl_lightning.data.dicom.objects import DicomObject, open_object
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.dicom.text import has_text
from arl_lightning.data.dicom.timing import sampled_frames
from arl_lightning.data.media import UnreadableError, to_grey
from arl_lightning.data.shards.sample import Flagged, Rejected, Sample
from arl_lightning.data.sources.folder import check_fps
from arl_lightning.data.sources.source import Unit
from arl_lightning.errors import UserError

DOPPLER = "doppler"


@dataclass(frozen=True)
class Dicom:
    """Ultrasound objects under a folder, or those that a DICOMDIR lists, de-identified.

    Nothing of an object leaves it but pixels of ultrasound, an anatomy, the probe's type, the pixels' size, and keyed
    hashes: `patient` (of Patient ID and its issuer; of the study's UID where there is no ID), `video` (of the object's
    UID), and the unit's name (of the path, which may hold a patient's name). The key comes from `ARL_DEID_KEY` or
    `key_file`, in each process anew; it is no field, so that a pickle of the source does not hold it.

    A unit's `path` and a `Rejected.path` are that hash too, and `details` is the path sealed with the key, beside a
    hash that changes with the file and the rules: a list of rejected files, a progress bar and whatever packing leaves
    behind when it is killed tell no path. `path_of` opens a seal; `data/dicom/review.py` writes the table from hashes
    to paths, into a folder that stays inside of the institution. Units come in the order of their paths.

    Layout:
        Any. Every file counts but hidden ones and DICOMDIRs; Ultrasound Image and Ultrasound Multi-frame Image Storage
        are read, secondary captures by option. What else is there (other modalities, reports, damaged and encrypted
        files) comes out as a `Rejected` with its reason. Structures: DICOM PS3.3 C.8.5.5 (regions), C.8.5.6
        (ultrasound image), C.7.6.5 (cine); PS3.5 (encodings).

    Citation:
        That of the institution that owns the archive.

    Licence:
        Theirs to grant, and the ethics board's; docs/dicom.md is their guide.

    Access:
        Inside of the institution, where the key stays too.

    Faults:
        Text inside of a region stays there unless `tighten` cuts it off or `reject_text` sees it. A patient who has two
        IDs has two hashes. Doppler is told by regions, or by Image Type where there are none, and counts as B-mode
        where neither says it. Damage of compressed pixels that a decoder does not notice stays in the picture.

    Attributes:
        root: The folder, or a DICOMDIR file.
        name: Name of the data set. It is stored in every sample: choose one that may be known, e.g. `site03`.
        anatomy: Anatomy of all B-mode images, in place of the rules.
        rules: A file of anatomy rules; the shipped `data/dicom/anatomy_rules.yaml` by default.
        key_file: A text file with the key; `ARL_DEID_KEY` by default.
        fps: Frames taken from each second of a cine, all where it has fewer.
        secondary_capture: Read Secondary Capture objects of modality US too.
        regions: One sample of all ultrasound regions, or one of `each`.
        tighten: Inside of a region too, keep only the sector where the detector is sure of its outline: scanners write
            settings into a region's corners.
        undetected: What to do with an object without usable regions whose outline is not sure: `reject` it, or `keep`
            all of its pixels, the patient's name too if it stands there.
        reject_text: Reject objects in whose kept pixels text is seen, or which say that text is burned in. Text that
            shows later, in a frame that the detectors had not looked at, ends the object there.
    """

    root: Path
    name: str = "dicom"
    anatomy: str | None = None
    rules: Path | None = None
    key_file: Path | None = None
    fps: float = 2.0
    secondary_capture: bool = False
    regions: Literal["union", "each"] = "union"
    tighten: bool = True
    undetected: Literal["reject", "keep"] = "reject"
    reject_text: bool = False

    def __post_init__(self) -> None:
        check_fps(self.fps)
        for option, value, known in (
            ("regions", self.regions, ("union", "each")),
            ("undetected", self.undetected, ("reject", "keep")),
        ):
            if value not in known:
                raise UserError(f"{option} '{value}': choose one of {', '.join(known)}")
        if not self.name:
            raise UserError("name: must not be empty; it tells one institution's samples from another's")
        if self.anatomy is not None:
            object.__setattr__(self, "anatomy", AnatomyVocabulary().canonical(self.anatomy))

    def units(self) -> Iterator[Unit]:
        """List the files, without opening them.

        Raises:
            UserError: If there is no key, the root is missing or holds no file, or a rule is wrong.
        """
        secret = resolve_key(self.key_file)
        load_rules(self.rules)
        rules = read_rules(self.rules)
        paths = find_objects(self.root)
        first = next(paths, None)
        if first is None:
            raise UserError(f"{self.root}: holds no file; --root names the archive's folder or its DICOMDIR")
        return (self._unit(path, rules, secret) for path in itertools.chain([first], paths))

    def read(self, unit: Unit) -> Iterator[Sample | Rejected | Flagged]:
        """Yield an object's samples, one frame in memory at a time; what is damaged ends it with a `Rejected`.

        A `Flagged` tells that text seems to stand in what is kept, before the first sample in which it was seen, once.
        """
        secret = resolve_key(self.key_file)
        try:
            with open_object(self.path_of(unit, secret), self.secondary_capture) as source:
                yield from self._samples(source, unit, secret)
        except Exception as error:  # damage surfaces as many types
            yield Rejected(unit.path, reason_of(error, self.root))

    def path_of(self, unit: Unit, secret: Secret | None = None) -> Path:
        """Return the file behind a unit.

        Raises:
            UserError: If the key is not the one that the unit was listed with.
        """
        return base_folder(self.root) / (secret or resolve_key(self.key_file)).unseal(unit.details[0])

    @property
    def rate(self) -> Fraction:
        """Return `fps` as an exact number."""
        return Fraction(self.fps).limit_denominator(1000)

    @property
    def area_options(self) -> AreaOptions:
        """Return the options that say which pixels are kept."""
        return AreaOptions(self.regions, self.undetected, self.tighten, self.reject_text)

    def rule_of(self, source: DicomObject) -> Rule | None:
        """Return the rule that tells an object's anatomy, None where none matches."""
        return first_match(load_rules(self.rules), describe(source.header))

    def _unit(self, path: str, rules: str, secret: Secret) -> Unit:
        name = secret.hash("path", path)
        size, changed = _state(base_folder(self.root) / path, self.root)
        state = secret.hash("state", str(size), str(changed), rules)
        return Unit(name, Path(name), (secret.seal(path), state), size)

    def _samples(self, source: DicomObject, unit: Unit, secret: Secret) -> Iterator[Sample | Flagged]:
        frames = Frames(source)
        header = source.header
        rule = None if self.anatomy else self.rule_of(source)
        anatomy = self.anatomy or (rule.anatomy if rule else OTHER)
        look = Look(frames)
        areas = find_areas(frames, header, self.area_options, look)
        flag = text_flag(areas, header, look)
        if flag:
            yield Flagged(unit.path, flag)
        patient, probe = patient_hash(header, secret), probe_type(header)
        is_cine = frames.num_frames > 1
        video = (video_hash(header, secret) or unit.name) if is_cine else None
        for index in sampled_frames(header, frames.num_frames, self.rate):
            images = _kept(frames, index, areas)
            if not flag and index not in look.pixels and _shows_text(images, areas):
                flag = self._text_in(index, areas)
                yield Flagged(unit.path, flag)
            for number, (area, image) in enumerate(zip(areas, images, strict=True)):
                part = f".{number}" if self.regions == "each" else ""
                yield Sample(
                    image=to_grey(image),
                    anatomy=DOPPLER if area.doppler else anatomy,
                    source=self.name,
                    name=f"{unit.name}{part}#{index:06d}" if is_cine else f"{unit.name}{part}",
                    patient=patient,
                    video=video,
                    frame=index if is_cine else None,
                    probe=probe,
                    spacing_mm=area.spacing_mm,
                )

    def _text_in(self, index: int, areas: Sequence[Area]) -> str:
        """Return the flag for text in a frame that the detectors had not looked at.

        Raises:
            UnreadableError: If text is refused, by option or because the detector drew the outline.
        """
        guessed = self.undetected == "reject" and any(area.origin == "detected" for area in areas)
        if self.reject_text or guessed:
            raise UnreadableError(f"frame {index}: {TEXT_SEEN}")
        return TEXT_SEEN


def _state(path: Path, root: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError as error:
        reason_of(error, root)  # ends the listing if the machine fails
        return 0, 0  # a DICOMDIR may list what is not there; reading tells it
    return state.st_size, state.st_mtime_ns


def _kept(frames: Frames, index: int, areas: Sequence[Area]) -> list[np.ndarray]:
    """Return what is kept of a frame, one image for each area."""
    pixels = _decode(frames, index)
    return [area.clean(frames.render(pixels[area.box.slices], area.mask)) for area in areas]


def _shows_text(images: Sequence[np.ndarray], areas: Sequence[Area]) -> bool:
    return any(has_text(image, area.mask) for image, area in zip(images, areas, strict=True))


def _decode(frames: Frames, index: int) -> np.ndarray:
    try:
        return frames.decode(index)
    except UnreadableError as error:
        raise UnreadableError(f"frame {index}: {error}" if frames.num_frames > 1 else str(error)) from None
