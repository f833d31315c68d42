"""The folder in which a corpus is made, and what it lets a packing or merging that was killed go on with."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arl_lightning.data.packing.writer import SHARD_PATTERN
from arl_lightning.data.shards.manifest import FILE_NAME, Manifest
from arl_lightning.errors import UserError

WORK_FOLDER = ".packing"
REVIEW_FILE = "paths.tsv"  # that `data/dicom/review.py` writes
DONE_FOLDER = ".packing-done"  # renamed before it is deleted, so that half of it is never taken for a packing to go on


def open_work_folder(out: Path) -> bool:
    """Make the work folder, and return whether an earlier packing left one to go on with.

    Raises:
        UserError: If `out` cannot be made, or holds shards without a manifest that no packing here has left.
    """
    work = out / WORK_FOLDER
    if (out / REVIEW_FILE).exists():
        raise UserError(f"{out}: holds review sheets, which name patients; choose another --out folder")
    going_on = work.is_dir()
    if not going_on and not saved_manifests(out):
        present = sorted(out.rglob(SHARD_PATTERN))
        if present:
            raise UserError(
                f"{out}: holds {present[0].relative_to(out)} without a manifest; choose another --out folder or delete"
                " this one"
            )
    work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / DONE_FOLDER, ignore_errors=True)
    return going_on


def close_work_folder(out: Path) -> None:
    """Delete the work folder at once for the next packing's eyes, then piece by piece on the disk."""
    (out / WORK_FOLDER).replace(out / DONE_FOLDER)
    shutil.rmtree(out / DONE_FOLDER)


def saved_manifests(out: Path) -> list[Path]:
    """Return the manifests of a corpus: one, or one in the folder of each split."""
    return sorted([*out.glob(FILE_NAME), *out.glob(f"*/{FILE_NAME}")])


def refuse_other_corpus(out: Path, fingerprint: str) -> dict[str, Manifest]:
    """Return what is already in place of the corpus with this fingerprint.

    Raises:
        UserError: If it is another corpus that lies there.
    """
    manifests = {path.parent.relative_to(out).name: Manifest.load(path.parent) for path in saved_manifests(out)}
    if any(manifest.fingerprint != fingerprint for manifest in manifests.values()):
        raise UserError(f"{out}: holds another corpus already; choose another --out folder or delete this one")
    return manifests


def forget_others(work: Path, kept: set[str]) -> None:
    """Delete what a packing of other files or options has left in the work folder."""
    for path in work.iterdir():
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path)


@contextmanager
def tidy_unless(going_on: bool, work: Path) -> Iterator[None]:
    """Take a fresh work folder away again if listing fails: nothing is lost with it."""
    try:
        yield
    except BaseException:
        if not going_on:
            shutil.rmtree(work, ignore_errors=True)
            if not any(work.parent.iterdir()):
                work.parent.rmdir()
        raise


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into a user's line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: {error.strerror or error}; make room or choose another --out, and run the same"
            " command again: it goes on where it stopped"
        ) from error
