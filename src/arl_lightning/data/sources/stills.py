"""What data sets of image files share: files listed with their patients, and clips stored as one file a frame."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from arl_lightning.data.media import IMAGE_SUFFIXES, decode_image
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.source import Unit
from arl_lightning.errors import UserError


def image_files(folder: Path) -> list[Path]:
    """Return the images directly in a folder, sorted, without hidden files.

    Raises:
        UserError: If the folder must not be read.
    """
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); grant access to it") from error


def table_units(root: Path, folder: str, patients: Mapping[str, str]) -> list[Unit]:
    """List the images that a table names together with those that lie in their folder.

    Args:
        root: The data set's folder.
        folder: The images' folder in it.
        patients: Patient by file name, from the table.

    Returns:
        Units sorted by name; `details` is the patient, None for a file that the table does not know.
    """
    names = patients.keys() | {path.name for path in image_files(root / folder)}
    return [Unit(f"{folder}/{name}", root / folder / name, patients.get(name)) for name in sorted(names)]


def refuse_empty(found: Sequence[object], folder: Path, data_set: str, where: str) -> None:
    """Raise a UserError if a folder that should hold a data set's images held none."""
    if not found:
        raise UserError(f"{folder}: holds no image of {data_set}; copy the whole set there ({where})")


def read_still(path: Path, anatomy: str, source: str, name: str, patient: str | None = None) -> Sample | Rejected:
    """Decode an image file that is a sample of its own."""
    image = decode_image(path)
    return image if isinstance(image, Rejected) else Sample(image, anatomy, source, name, patient)


def check_every(every: int) -> None:
    """Raise a UserError unless `every` is a step between frames."""
    if every < 1:
        raise UserError(f"every {every}: must be 1 (all frames) or more")
