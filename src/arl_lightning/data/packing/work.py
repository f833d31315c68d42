"""The folder in which a corpus is made, and what it lets a packing or merging that was killed go on with.

In `OUT/.packing`: `lock`, held while somebody works; `units`, the list of what is to be read; `parts/`, what was read;
`begun`, once there is something worth keeping; `shards-<hash>/`, shards that are whole. When all are, `placed.json`
notes them, they are moved to `OUT`, the manifests are written, the folder is renamed to `.packing-done` and deleted.
Every file is renamed into place whole, so each of these steps can be repeated.
"""

import errno
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arl_lightning.data.packing.writer import SHARD_PATTERN
from arl_lightning.data.shards.manifest import FILE_NAME, Manifest
from arl_lightning.errors import UserError

WORK_FOLDER = ".packing"
DONE_FOLDER = ".packing-done"  # renamed before it is deleted, so that half of it is never taken for a packing to go on
BEGUN_FILE, LOCK_FILE = "begun", "lock"
REVIEW_FILE = "paths.tsv"  # that `data/dicom/review.py` writes


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Make the work folder and hold its lock; where nothing worth keeping was begun, take it away again.

    Raises:
        UserError: If another process works there, `out` cannot be made or written, or holds shards without a manifest
            that no packing here has left, or review sheets.
    """
    made, work = not out.exists(), out / WORK_FOLDER
    with disk_errors(out):
        _refuse_strangers(out)
        work.mkdir(parents=True, exist_ok=True)
        with _locked(work):
            shutil.rmtree(out / DONE_FOLDER, ignore_errors=True)
            try:
                yield work
            finally:
                if work.is_dir() and not has_begun(work):
                    shutil.rmtree(work)
                if made and not any(out.iterdir()):
                    out.rmdir()


def _refuse_strangers(out: Path) -> None:
    if (out / REVIEW_FILE).exists():
        raise UserError(f"{out}: holds review sheets, which name patients; choose another --out folder")
    if has_begun(out / WORK_FOLDER) or saved_manifests(out):
        return
    present = sorted((*out.glob(SHARD_PATTERN), *out.glob(f"*/{SHARD_PATTERN}")))
    if present:
        raise UserError(
            f"{out}: holds {present[0].relative_to(out)} without a manifest; choose another --out folder or delete this"
            " one"
        )


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    with (work / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{work.parent}: another process packs into it; wait for it, or choose another --out"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
                raise
        yield


def has_begun(work: Path) -> bool:
    """Return whether there is something to go on with."""
    return (work / BEGUN_FILE).exists()


def begin(work: Path) -> None:
    """Say that from now on the work folder is worth keeping."""
    (work / BEGUN_FILE).touch()


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


def forget_other_shards(work: Path, kept: str) -> None:
    """Delete shards in the making that other options have left."""
    for path in work.glob("shards-*"):
        if path.name != kept:
            shutil.rmtree(path)


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn a full disk, a folder that cannot be written or a file that cannot be read into a user's line."""
    fixes = {
        (errno.ENOSPC, errno.EDQUOT): "make room",
        (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG): "choose another --out folder",
        (errno.EACCES, errno.EPERM, errno.EROFS): "grant access to it",
    }
    try:
        yield
    except OSError as error:
        fix = next(
            (fix for numbers, fix in fixes.items() if error.errno in numbers), "see that the disk can be reached"
        )
        raise UserError(
            f"{error.filename or out}: {error.strerror or error}; {fix} and run the same command again: it goes on"
            " where it stopped"
        ) from error
