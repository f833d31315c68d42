"""What a user asks about: image files, clips and DICOM objects, and their frames one at a time.

A frame is uint8, (H, W) grey or (H, W, 3) RGB.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from arl_lightning.data.dicom.objects import open_object
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.dicom.timing import sampled_frames
from arl_lightning.data.media import (
    CLIP_SUFFIXES,
    IMAGE_SUFFIXES,
    UnreadableError,
    decode_clip,
    decode_image,
    refuse_machine_failure,
    to_grey,
)
from arl_lightning.data.shards.sample import Rejected
from arl_lightning.data.wording import one_line
from arl_lightning.errors import UserError

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
DICOMDIR = "DICOMDIR"
PREAMBLE, MAGIC = 128, b"DICM"


@dataclass(frozen=True)
class Source:
    """A file that is asked about.

    Attributes:
        path: The file, spelt as the user spelt it.
        name: What files written about it are called, a relative path without a suffix.
    """

    path: Path
    name: Path


@dataclass(frozen=True)
class Frame:
    """One image of a file.

    Attributes:
        image: uint8 (H, W) or (H, W, 3).
        index: Among all of a clip's frames; None for a still.
    """

    image: np.ndarray
    index: int | None


def find_sources(inputs: Sequence[Path]) -> list[Source]:
    """List what is to be read: files as named, and of folders all images, clips and DICOM objects, sorted by path.

    Raises:
        UserError: If a path is missing, or a folder has nothing to read.
    """
    found: dict[Path, Path] = {}  # a file -> its name below its folder
    for path in inputs:
        if path.is_dir():
            inside = _in_folder(path)
            if not inside:
                known = "images, clips or DICOM objects"
                raise UserError(f"{one_line(path)}: holds no {known}; give a folder that does, or files themselves")
            found |= {each: each.relative_to(path) for each in inside if each not in found}
        elif path.exists():
            found.setdefault(path, Path(path.name))
        else:
            raise UserError(f"{one_line(path)}: no such file or folder")
    if not found:
        raise UserError("nothing to predict; give images, clips, DICOM objects, or folders of them")
    return _named(found)


def _named(found: dict[Path, Path]) -> list[Source]:
    """Leave suffixes off where that keeps names apart, and number those that agree even so."""
    stems = Counter(name.with_suffix("") for name in found.values())
    sources, seen = [], Counter[Path]()
    for path, name in found.items():
        own = name.with_suffix("") if stems[name.with_suffix("")] == 1 else name
        seen[own] += 1
        sources.append(Source(path, own if seen[own] == 1 else own.with_name(f"{own.name}_{seen[own]}")))
    return sources


def _in_folder(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith(".") and name.upper() != DICOMDIR)
        found += [path for path in paths if path.is_file() and _is_known(path)]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise UserError(f"{one_line(error.filename)}: cannot be listed ({error.strerror}); grant access to it")


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *CLIP_SUFFIXES) or _is_dicom(path)


def _is_dicom(path: Path) -> bool:
    """Tell a DICOM object by its name or, as many have none that tells, by its first bytes."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:
        return False  # reading it tells what is wrong, if its name says that it is to be read


def read_frames(path: Path, fps: Fraction) -> Iterator[Frame | Rejected]:
    """Yield a file's image, or the first frame of each 1/`fps` seconds of a clip or cine; damage ends it."""
    if path.suffix.lower() in CLIP_SUFFIXES:
        for read in decode_clip(path, fps):
            yield read if isinstance(read, Rejected) else Frame(read.image, read.index)
    elif path.suffix.lower() not in IMAGE_SUFFIXES and _is_dicom(path):
        yield from _read_dicom(path, fps)
    else:
        image = decode_image(path)
        yield image if isinstance(image, Rejected) else Frame(image, None)


def _read_dicom(path: Path, fps: Fraction) -> Iterator[Frame | Rejected]:
    try:
        with open_object(path, secondary_capture=True) as source:
            frames = Frames(source)
            is_cine = frames.num_frames > 1
            for index in sampled_frames(source.header, frames.num_frames, fps):
                image = to_grey(frames.render(frames.decode(index)))
                yield Frame(image, index if is_cine else None)
    except UnreadableError as error:  # its text holds no value of the object's
        yield Rejected(path, str(error))
    except Exception as error:  # damage surfaces as many types, and their texts may quote the patient
        refuse_machine_failure(error)
        yield Rejected(path, f"damaged ({type(error).__name__})")
