"""Reads a folder of images and clips that has no layout of its own."""

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path

from arl_lightning.data.media import CLIP_SUFFIXES, IMAGE_SUFFIXES, decode_clip, decode_image
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.source import Unit
from arl_lightning.errors import UserError


@dataclass(frozen=True)
class Folder:
    """Every image and sampled clip frame under a folder.

    Patients are unknown here unless `patient` says how a path tells them.

    Attributes:
        root: The folder; its sub-folders are read too, hidden files and folders are not.
        anatomy: The anatomy of all images.
        fps: Frames taken from each second of a clip, all where the clip has fewer.
        include: Patterns of files to read, none for all, see `find_media`.
        exclude: Patterns of files to leave out.
        name: Name of the data set; the folder's name by default.
    """

    root: Path
    anatomy: str
    fps: float = 2.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        check_fps(self.fps)
        if not self.name:
            object.__setattr__(self, "name", self.root.resolve().name)

    def units(self) -> Iterator[Unit]:
        """List the files in sorted order.

        Raises:
            UserError: If the root is missing, is no folder or holds nothing to read.
        """
        units = (
            Unit(path.relative_to(self.root).as_posix(), path)
            for path in find_media(self.root, self.exclude, self.include)
        )
        first = next(units, None)
        if first is None:
            left_out = f" that {list(self.include)} includes" if self.include else ""
            left_out += f" beside what {list(self.exclude)} excludes" if self.exclude else ""
            raise UserError(
                f"{self.root}: holds no image or clip{left_out}; looked for {', '.join(IMAGE_SUFFIXES + CLIP_SUFFIXES)}"
            )
        return itertools.chain([first], units)

    def read(self, unit: Unit) -> Iterator[Sample | Rejected]:
        """Yield an image, or a clip's frames; a clip with a fault midway yields its frames before the fault first."""
        if unit.path.suffix.lower() in IMAGE_SUFFIXES:
            image = decode_image(unit.path)
            yield image if isinstance(image, Rejected) else Sample(image, self.anatomy, self.name, unit.name)
        else:
            yield from clip_samples(unit, self.anatomy, self.name, self.fps)


def clip_samples(
    unit: Unit, anatomy: str, source: str, fps: float, patient: str | None = None, probe: str | None = None
) -> Iterator[Sample | Rejected]:
    """Yield a clip's frames at `fps`; a frame's name is the clip's with the frame's number."""
    for frame in decode_clip(unit.path, Fraction(fps).limit_denominator(1000)):
        if isinstance(frame, Rejected):
            yield frame
        else:
            name = f"{unit.name}#{frame.index:06d}"
            yield Sample(frame.image, anatomy, source, name, patient, unit.name, frame.index, probe)


def check_fps(fps: float) -> None:
    """Raise a UserError unless `fps` is a rate."""
    if not (math.isfinite(fps) and fps > 0):
        raise UserError(f"fps {fps}: must be above 0 frames per second")


def find_media(root: Path, exclude: Sequence[str] = (), include: Sequence[str] = ()) -> Iterator[Path]:
    """Yield the images and clips under a folder, sorted within each folder.

    A pattern such as `*_mask*` or `masks/*` is compared, without regard to case, with the end of a file's path from any
    folder on: excluding `masks/*` leaves out every folder named masks, at any depth. Without `include` all are read.

    Raises:
        UserError: If the root, or a folder in it, is missing, is no folder or must not be read.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: {'is no folder' if root.exists() else 'no such folder'}; --root names the images' folder"
        )
    excluded, included = _path_patterns(exclude), _path_patterns(include or ["*"])
    for folder, subfolders, names in os.walk(root, onerror=_refuse_folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            relative = f"/{path.relative_to(root).as_posix()}".lower()
            if name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES + CLIP_SUFFIXES:
                continue
            if _matches(relative, included) and not _matches(relative, excluded):
                yield path


def _path_patterns(patterns: Sequence[str]) -> list[str]:
    return [f"*/{pattern.lower().lstrip('/')}{'*' if pattern.endswith('/') else ''}" for pattern in patterns]


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(relative, pattern) for pattern in patterns)


def _refuse_folder(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); grant access to it") from error
