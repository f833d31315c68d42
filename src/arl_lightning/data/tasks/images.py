"""Decodes a task's cases once: finds what cannot be used, and keeps the pixels in memory where they fit.

H, W of an image scaled so that its shorter side is at most `side`; a mask is uint8 (H, W), 0 for background, k for
structure k. The image of a case with a box is the part of the picture within.
"""

import sys
import zlib
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import cv2
import numpy as np
from tqdm import tqdm

from arl_lightning.data.media import quiet_pillow
from arl_lightning.data.processes import usable_cores
from arl_lightning.data.shards.sample import Rejected
from arl_lightning.data.tasks.case import Finding, Listing
from arl_lightning.data.tasks.consistency import duplicate_findings, listing_findings
from arl_lightning.data.tasks.groups import joined_groups
from arl_lightning.data.tasks.masks import read_mask
from arl_lightning.data.tasks.pixels import (
    box_fault,
    part_of,
    part_size,
    picture_hash,
    read_images,
    scaled_image,
    scaled_mask,
)
from arl_lightning.data.wording import human_size
from arl_lightning.errors import UserError

MIN_THREADS, MAX_THREADS = 2, 16
NUM_PROBED = 16  # files whose decoded sizes stand for those of the rest
LOG_SECONDS = 30.0  # between two lines of progress in a log file


@dataclass(frozen=True)
class Decoded:
    """What is kept of a case: uint8 image (H, W) or (H, W, 3), mask (H, W), and the mask at its own size, deflated."""

    image: np.ndarray
    mask: np.ndarray | None
    native_mask: bytes | None

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return self.image.nbytes + (0 if self.mask is None else self.mask.nbytes) + len(self.native_mask or b"")


class CaseImages:
    """Images and masks of cases, by their places in the listing.

    Args:
        listing: The cases, and the structures that masks show.
        side: Most pixels of an image's shorter side; an image is never enlarged.
        in_chans: 1 for grey or 3 for RGB.
        file_sizes: Height and width of each readable image's file, whatever part of it is the case's.
        kept: What is in memory, by place; None decodes at each call.
        pictures: A hash of each readable image's pixels, by place, empty where it is blank.

    Raises:
        UserError: On use, of a case that cannot be read.
    """

    def __init__(
        self,
        listing: Listing,
        side: int,
        in_chans: int,
        file_sizes: dict[int, tuple[int, int]],
        kept: dict[int, Decoded] | None,
        pictures: Mapping[int, bytes] | None = None,
    ) -> None:
        if in_chans not in (1, 3):
            raise UserError(f"in_chans {in_chans}: must be 1 for grey or 3 for RGB")
        self.listing = listing
        self.side = side
        self.in_chans = in_chans
        self.file_sizes = file_sizes
        self.kept = kept
        self.pictures = pictures or {}

    def __len__(self) -> int:
        return len(self.listing.cases)

    @property
    def groups(self) -> list[str]:
        """What must stay in one part of a split, one for each case: patients, clips and identical pictures."""
        return joined_groups(self.listing.cases, self.pictures)

    @property
    def native_sizes(self) -> dict[int, tuple[int, int]]:
        """Height and width of each readable image before scaling, by place."""
        return {place: self.native_size(place) for place in self.file_sizes}

    @property
    def num_bytes(self) -> int:
        """Memory that the kept pixels take."""
        return sum(each.num_bytes for each in (self.kept or {}).values())

    def image(self, place: int) -> np.ndarray:
        """Return an image, uint8 (H, W) where `in_chans` is 1, else (H, W, 3)."""
        self.native_size(place)
        pixels = self._read(place) if self.kept is None else self.kept[place].image
        if self.in_chans == 3 and pixels.ndim == 2:
            return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        return pixels

    def mask(self, place: int) -> np.ndarray:
        """Return a mask at its image's scaled size, uint8 (H, W)."""
        kept = None if self.kept is None else self.kept[place].mask
        return scaled_mask(self.native_mask(place), self.side) if kept is None else kept

    def native_mask(self, place: int) -> np.ndarray:
        """Return a mask at its image's size before scaling, uint8."""
        size = self.native_size(place)
        packed = None if self.kept is None else self.kept[place].native_mask
        if packed is not None:
            return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(size)
        case = self.listing.cases[place]
        mask, findings = read_mask(case, len(self.listing.structures), self.file_sizes[place])
        if mask is None:
            raise UserError(f"{findings[0].path}: {findings[0].reason}")
        return mask

    def native_size(self, place: int) -> tuple[int, int]:
        """Return the height and width of an image before scaling: its file's, or its box's."""
        case = self.listing.cases[place]
        if place not in self.file_sizes:
            raise UserError(f"{case.path}: cannot be read; mend it or leave it out")
        return part_size(self.file_sizes[place], case.box)

    def restricted(self, listing: Listing) -> "CaseImages":
        """Return the images of some of the cases, by their places in another listing; nothing is decoded again."""
        old = {case.key: place for place, case in enumerate(self.listing.cases)}
        pairs = [(place, old[case.key]) for place, case in enumerate(listing.cases)]
        sizes = {new: self.file_sizes[place] for new, place in pairs if place in self.file_sizes}
        kept = self.kept and {new: self.kept[place] for new, place in pairs if place in self.kept}
        pictures = {new: self.pictures[place] for new, place in pairs if place in self.pictures}
        return CaseImages(listing, self.side, self.in_chans, sizes, kept, pictures)

    def _read(self, place: int) -> np.ndarray:
        case = self.listing.cases[place]
        for _, image in read_images(case.path, [case]):
            if isinstance(image, Rejected):
                raise UserError(f"{image.path}: {image.reason}; it could be read before")
            return scaled_image(part_of(image, case.box), self.side, self.in_chans)
        raise AssertionError("a case has one image")


def prepare(
    listing: Listing,
    side: int,
    in_chans: int,
    with_masks: bool,
    keep_gb: float = 4.0,
    show_progress: bool = True,
    released: bool = True,
) -> tuple[CaseImages, list[Finding]]:
    """Decode every case once, and find what is missing, unreadable or inconsistent.

    Args:
        listing: The cases.
        side: Most pixels of a kept image's shorter side.
        in_chans: 1 for grey or 3 for RGB.
        with_masks: Whether masks are read too. Without, every class is checked to have samples of two patients.
        keep_gb: Most memory for decoded pixels, in GB; where they need more they are decoded anew at each use.
        show_progress: Whether a bar or, in a log file, lines tell how far it is.
        released: Whether the parts that cases were released in matter; a drawn split mends what crosses them.

    Returns:
        The images, and the findings: the listing's own, those of the files, and those of the set as a whole.
    """
    decoding = _Decoding(listing, side, in_chans, with_masks, keep_gb * 1e9)
    # Around the threads, so that the interpreter's filters are as before once these have set them in turn.
    with quiet_pillow(), _bar(len(listing.cases), show_progress) as bar:
        pool = ThreadPoolExecutor(min(max(usable_cores(), MIN_THREADS), MAX_THREADS))
        try:
            for results in pool.map(decoding.decode, decoding.files()):
                decoding.add(results)
                bar.update(len(results))
        finally:
            pool.shutdown(cancel_futures=True)
    images = CaseImages(listing, side, in_chans, decoding.file_sizes, decoding.kept, decoding.pictures)
    if decoding.kept is None and show_progress:
        need = human_size(decoding.estimate)
        tqdm.write(f"images take about {need} decoded, keep_gb allows {keep_gb:g} GB: decoded at each use", sys.stderr)
    whole = listing_findings(listing, not with_masks, released, images.groups)
    findings = [*listing.findings, *decoding.findings]
    findings += [*duplicate_findings(listing.cases, decoding.pictures, released), *whole]
    return images, list(dict.fromkeys(findings))


def _bar(total: int, show: bool) -> "tqdm[Never]":
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc="decode",
        unit=" img",
        smoothing=0,
        disable=not show,
        delay=0 if terminal else LOG_SECONDS,
        mininterval=0.1 if terminal else LOG_SECONDS,
        bar_format=None if terminal else "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]\n",
    )


@dataclass(frozen=True)
class _Result:
    """What a thread found of one case."""

    place: int
    findings: list[Finding]
    decoded: Decoded | None = None
    file_size: tuple[int, int] = (0, 0)
    picture: bytes = b""


class _Decoding:
    """Decodes files in threads, and collects in one what they held."""

    def __init__(self, listing: Listing, side: int, in_chans: int, with_masks: bool, max_bytes: float) -> None:
        self.cases, self.num_structures = listing.cases, len(listing.structures)
        self.side, self.in_chans, self.with_masks, self.max_bytes = side, in_chans, with_masks, max_bytes
        self.kept: dict[int, Decoded] | None = {}
        self.file_sizes: dict[int, tuple[int, int]] = {}
        self.pictures: dict[int, bytes] = {}
        self.findings: list[Finding] = []
        self._num_files = self._num_bytes = self._num_decoded = 0

    @property
    def estimate(self) -> float:
        """Bytes that all cases take once decoded, as far as can be told."""
        return self._num_bytes / max(self._num_decoded, 1) * len(self.cases)

    def files(self) -> list[list[int]]:
        """Return the places of the cases that each file holds."""
        places: dict[Path, list[int]] = defaultdict(list)
        for place, case in enumerate(self.cases):
            places[case.path].append(place)
        return list(places.values())

    def decode(self, places: list[int]) -> list[_Result]:
        """Decode one file; called in a thread."""
        cases = [self.cases[place] for place in places]
        path = cases[0].path
        if not path.is_file():
            found = Finding(path, "missing", "named as an image, but not there; copy it, or leave it out")
            return [_Result(place, [found]) for place in places]
        results: dict[int, _Result] = {}
        for index, image in read_images(path, cases):
            if isinstance(image, Rejected):
                found = Finding(path, "unreadable", image.reason)
                rest = [place for place in places if place not in results]
                return [*results.values(), *(_Result(place, [found]) for place in rest)]
            results[places[index]] = self._result(places[index], image)
        return list(results.values())

    def _result(self, place: int, image: np.ndarray) -> _Result:
        case, size = self.cases[place], (image.shape[0], image.shape[1])
        fault = box_fault(case.box, size)
        if fault is not None:
            return _Result(place, [Finding(case.path, "inconsistent", f"{case.key}: {fault}")])
        image = part_of(image, case.box)
        scaled, picture = scaled_image(image, self.side, self.in_chans), picture_hash(image)
        findings = [] if picture else [Finding(case.path, "note", f"{case.key} is blank")]
        mask, packed = None, None
        if self.with_masks:
            native, of_mask = read_mask(case, self.num_structures, size)
            findings += of_mask
            if native is not None:
                mask, packed = scaled_mask(native, self.side), zlib.compress(native.tobytes(), 1)
        return _Result(place, findings, Decoded(scaled, mask, packed), size, picture)

    def add(self, results: list[_Result]) -> None:
        """Take what a file held, and give up keeping pixels as soon as they are bound not to fit."""
        self._num_files += 1
        for result in results:
            self.findings += result.findings
            if result.decoded is None:
                continue
            self.file_sizes[result.place], self.pictures[result.place] = result.file_size, result.picture
            self._num_bytes += result.decoded.num_bytes
            self._num_decoded += 1
            if self.kept is not None:
                self.kept[result.place] = result.decoded
        expected = self.estimate if self._num_files >= NUM_PROBED else 0
        if max(expected, self._num_bytes) > self.max_bytes:
            self.kept = None
