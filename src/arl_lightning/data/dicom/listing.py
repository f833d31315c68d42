"""Lists the files of an archive, a folder or what a DICOMDIR names."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pydicom import dcmread

from arl_lightning.data.dicom.header import quiet_pydicom
from arl_lightning.data.media import is_of_machine
from arl_lightning.errors import UserError


def find_objects(root: Path) -> Iterator[str]:
    """List the files of an archive, sorted within each folder, as paths relative to `base_folder(root)`.

    What cannot be read as an object is listed all the same, so that reading tells it: pipes, links that lead to
    folders, and folders that may not be looked into.

    Args:
        root: A folder, all of whose files count but hidden ones and any DICOMDIR, or a DICOMDIR, whose records count.

    Raises:
        UserError: If the root is missing or cannot be read.
    """
    if root.is_file():
        return _listed(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --root names the archive's folder or its DICOMDIR")
    return _walk(root)


def base_folder(root: Path) -> Path:
    """Return the folder that an archive's paths are relative to."""
    return root.parent if root.is_file() else root


def _walk(root: Path, folder: str = "") -> Iterator[str]:
    """Yield a folder's files, then those of its folders."""
    try:
        with os.scandir(root / folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
        folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if folder and not is_of_machine(error):
            yield folder
            return
        # The folder's name may be the patient's.
        raise UserError(f"{root}: cannot be listed ({os.strerror(error.errno or 0)}); grant access to it") from None
    names = {entry.name for entry in entries} - set(folders)
    yield from (f"{folder}{name}" for name in sorted(names) if name.upper() != "DICOMDIR")
    for name in folders:
        yield from _walk(root, f"{folder}{name}/")


def _listed(dicomdir: Path) -> Iterator[str]:
    try:
        with quiet_pydicom():
            records = dcmread(dicomdir, specific_tags=["DirectoryRecordSequence"]).DirectoryRecordSequence
            named = [record.ReferencedFileID for record in records if record.get("ReferencedFileID")]
    except Exception as error:  # a damaged DICOMDIR makes pydicom raise nearly anything
        raise UserError(
            f"{dicomdir}: not a DICOMDIR ({type(error).__name__}); --root names a DICOMDIR or a folder of objects"
        ) from None
    paths = {str(PurePosixPath(*([parts] if isinstance(parts, str) else parts))) for parts in named}
    return iter(sorted(_inside(dicomdir.parent, path) for path in paths))


def _exists(path: Path) -> bool:
    """Tell whether a file is there, for all that may be seen."""
    try:
        return path.exists()
    except OSError:
        return False


def _inside(folder: Path, path: str) -> str:
    """Return a record's path as it is spelt on this disk; media of ISO 9660 are often mounted in lower case."""
    spelt = path if _exists(folder / path) or not _exists(folder / path.lower()) else path.lower()
    leaves = PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts
    if leaves or not Path(os.path.realpath(folder / spelt)).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{folder / 'DICOMDIR'}: names files outside of its folder; --root the objects' folder instead")
    return spelt
