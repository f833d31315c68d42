"""Packs sources into one corpus: list, read in parallel, plan, write in parallel, put in place.

Everything lies in `out/.packing` until it is whole. Killed at any time and called again with the same arguments,
packing goes on where it stopped and gives the same shards, byte for byte, whatever the number of processes.
"""

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from arl_lightning.data.anatomy import OTHER, AnatomyVocabulary
from arl_lightning.data.shards.manifest import FILE_NAME, Manifest
from arl_lightning.data.shards.plan import Options, PlannedSource, make_plan
from arl_lightning.data.shards.processes import usable_cores
from arl_lightning.data.shards.report import PackReport, refuse_bad_share, write_left_out, write_rejected
from arl_lightning.data.shards.spec import Job
from arl_lightning.data.shards.spool import read_index
from arl_lightning.data.shards.staging import Listing, list_parts, read_parts
from arl_lightning.data.shards.writer import SHARD_PATTERN, Contents, write_corpus
from arl_lightning.errors import UserError

WORK_FOLDER = ".packing"
DONE_FOLDER = ".packing-done"  # renamed before it is deleted, so that half of it is never taken for a packing to go on


def pack(
    jobs: Sequence[Job],
    out: Path,
    held_out: Sequence[Job] = (),
    options: Options | None = None,
    samples_per_shard: int = 2000,
    processes: int | None = None,
    max_bad_share: float = 0.05,
    vocabulary: AnatomyVocabulary | None = None,
) -> PackReport:
    """Pack images into checksummed WebDataset shards, in a folder for each split where there are splits.

    Args:
        jobs: What to pack.
        out: Folder for the shards; must hold no other corpus.
        held_out: What the corpus must not hold: its images, those that look like them, and its patients are left out.
        options: How the corpus is made of the images.
        samples_per_shard: The most images of one shard.
        processes: How many work at once; by default one for each core. The shards do not depend on it.
        max_bad_share: Give up if more than this share of the files cannot be read.
        vocabulary: The anatomies.

    Returns:
        The report, for printing.

    Raises:
        UserError: If an argument is wrong, `out` holds another corpus, too many files cannot be read, or the disk is
            full.
    """
    options = options or Options()
    processes = usable_cores() if processes is None else processes
    _check_numbers(samples_per_shard, processes, max_bad_share)
    start = time.perf_counter()
    with disk_errors(out):
        going_on = open_work_folder(out)
        work = out / WORK_FOLDER
        anatomies = [*(vocabulary or AnatomyVocabulary()).names, OTHER]
        with _tidy_unless(going_on, work):
            listing = list_parts(jobs, held_out, work, anatomies)
            fingerprint = _fingerprint(listing, jobs, options, samples_per_shard)
            done = refuse_other_corpus(out, fingerprint)
        if done and not going_on:
            shutil.rmtree(work)
            return PackReport(out, done, listing.num_units, (), (), time.perf_counter() - start, was_there=True)
        forget_others(work, {listing.folder.name, _shards_folder(fingerprint)})
        reports = read_parts(listing.parts, processes)
        rejected = write_rejected(reports, out)
        num_samples = sum(report.num_samples for report in reports)
        refuse_bad_share(rejected, listing.num_units, num_samples, max_bad_share, out)
        contents, lines = _plan(listing, jobs, anatomies, options, out)
        _check_space(contents, out)
        manifests = write_corpus(
            out, work / _shards_folder(fingerprint), contents, samples_per_shard, fingerprint, processes
        )
        close_work_folder(out)
    return PackReport(out, manifests, listing.num_units, rejected, lines, time.perf_counter() - start)


def _plan(
    listing: Listing, jobs: Sequence[Job], anatomies: Sequence[str], options: Options, out: Path
) -> tuple[Contents, tuple[str, ...]]:
    """Return what to write, and what to say of what is left out."""
    index = read_index([part.path for part in listing.parts if part.with_images])
    held_out = read_index([part.path for part in listing.parts if not part.with_images])
    sources = [PlannedSource(job.source.name, job.weight, job.splits) for job in jobs]
    plan = make_plan(index, held_out, anatomies, sources, options)
    files = [part.path for part in listing.parts]
    lines = write_left_out(index, held_out, plan, files, options.drop_duplicates, out)
    names = [source.name for source in sources]
    return Contents(files, index, anatomies, names, plan.orders, plan.copies), lines


def _check_numbers(samples_per_shard: int, processes: int, max_bad_share: float) -> None:
    if samples_per_shard < 1:
        raise UserError(f"--samples_per_shard {samples_per_shard}: must be at least 1")
    if processes < 1:
        raise UserError(f"--processes {processes}: must be at least 1")
    if not 0 <= max_bad_share <= 1:
        raise UserError(f"--max_bad_share {max_bad_share}: must be 0 to 1")


def _fingerprint(listing: Listing, jobs: Sequence[Job], options: Options, samples_per_shard: int) -> str:
    """Return a hash of all that the shards depend on."""
    planned = [(job.source.name, job.weight, sorted(job.splits.items())) for job in jobs]
    told = repr((listing.fingerprint, planned, options, samples_per_shard))
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()


def _shards_folder(fingerprint: str) -> str:
    return f"shards-{fingerprint[:16]}"


def _check_space(contents: Contents, out: Path) -> None:
    """Refuse to write shards that the disk cannot hold, before the first one."""
    sizes = contents.index["record_size"].astype(np.int64) + contents.index["image_size"] + 1024 + 512
    needed = sum(int(sizes[order].sum()) for order in contents.orders.values())
    free = shutil.disk_usage(out).free + sum(path.stat().st_size for path in out.rglob(f"*{SHARD_PATTERN}"))
    if needed > free:
        raise UserError(
            f"{out}: {needed / 1e9:.1f} GB of shards for {free / 1e9:.1f} GB of free space; make room and run the same"
            " command again, it goes on from here"
        )


# ---------------------------------------------------------------- the work folder, which merging uses too


def open_work_folder(out: Path) -> bool:
    """Make the work folder, and return whether an earlier packing left one to go on with.

    Raises:
        UserError: If `out` cannot be made, or holds shards without a manifest that no packing here has left.
    """
    work = out / WORK_FOLDER
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
def _tidy_unless(going_on: bool, work: Path) -> Iterator[None]:
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
