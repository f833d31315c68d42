"""Packs sources into one corpus: list, read in parallel, plan, write in parallel, put in place.

Everything lies in `out/.packing` until it is whole. Killed at any time and called again with the same arguments,
packing goes on where it stopped and gives the same shards, byte for byte, whatever the number of processes.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from arl_lightning.data.anatomy import OTHER, AnatomyVocabulary
from arl_lightning.data.packing.plan import Options, PlannedSource, check_weights, make_plan
from arl_lightning.data.packing.report import (
    PackReport,
    refuse_bad_share,
    write_flagged,
    write_left_out,
    write_rejected,
)
from arl_lightning.data.packing.spec import Job
from arl_lightning.data.packing.spool import PartReport, read_index
from arl_lightning.data.packing.staging import Listing, list_parts, read_parts
from arl_lightning.data.packing.work import (
    begin,
    close_work_folder,
    forget_other_shards,
    has_begun,
    refuse_other_corpus,
    work_folder,
)
from arl_lightning.data.packing.writer import Contents, check_space, write_corpus
from arl_lightning.data.processes import usable_cores
from arl_lightning.errors import UserError


def pack(
    jobs: Sequence[Job],
    out: Path,
    held_out: Sequence[Job] = (),
    options: Options | None = None,
    samples_per_shard: int = 2000,
    processes: int | None = None,
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
        vocabulary: The anatomies.

    Returns:
        The report, for printing.

    Raises:
        UserError: If an argument is wrong, `out` holds another corpus, too many files cannot be read, or the disk is
            full.
    """
    options = options or Options()
    processes = usable_cores() if processes is None else processes
    start = time.perf_counter()
    anatomies = [*(vocabulary or AnatomyVocabulary()).names, OTHER]
    _check(jobs, out, anatomies, options, samples_per_shard, processes)
    with work_folder(out) as work:
        listing = list_parts(jobs, held_out, work, anatomies)
        num_units = sum(part.num_units for part in listing.parts if part.with_images)
        fingerprint = _fingerprint(listing, jobs, options, samples_per_shard)
        done = refuse_other_corpus(out, fingerprint)
        if done and not has_begun(work):
            return PackReport(out, done, num_units, (), (), time.perf_counter() - start, was_there=True)
        begin(work)
        folder = work / f"shards-{fingerprint[:16]}"
        forget_other_shards(work, folder.name)
        reports = read_parts(listing.parts, processes)
        rejected = write_rejected(reports, out)
        _check_shares(listing, reports, [*jobs, *held_out], out)
        flagged = write_flagged(reports, out)
        contents, lines = _plan(listing, jobs, anatomies, options, out)
        check_space(contents, out)
        manifests = write_corpus(out, folder, contents, samples_per_shard, fingerprint, processes)
        close_work_folder(out)
    return PackReport(out, manifests, num_units, rejected, (*lines, *flagged), time.perf_counter() - start)


def _check_shares(listing: Listing, reports: Sequence[PartReport], jobs: Sequence[Job], out: Path) -> None:
    for number, job in enumerate(jobs):
        own = [part for part in listing.parts if part.source_number == number]
        num_units = sum(part.num_units for part in own)
        refuse_bad_share(job.source.name, [reports[part.number] for part in own], num_units, job.max_bad_share, out)


def _plan(
    listing: Listing, jobs: Sequence[Job], anatomies: Sequence[str], options: Options, out: Path
) -> tuple[Contents, tuple[str, ...]]:
    """Return what to write, and what to say of what is left out."""
    index, held_out = (
        read_index([(part.path, part.number, part.source_number) for part in listing.parts if part.with_images is kept])
        for kept in (True, False)
    )
    sources = [PlannedSource(job.source.name, job.weight, job.splits) for job in jobs]
    plan = make_plan(index, held_out, anatomies, sources, options)
    files = [part.path for part in listing.parts]
    lines = write_left_out(index, held_out, plan, files, options.drop_duplicates, out)
    names = [source.name for source in sources]
    return Contents(files, index, anatomies, names, plan.orders, plan.copies), lines


def _check(
    jobs: Sequence[Job], out: Path, anatomies: Sequence[str], options: Options, samples_per_shard: int, processes: int
) -> None:
    """Refuse, before hours of reading, what would be refused after them."""
    if samples_per_shard < 1:
        raise UserError(f"--samples_per_shard {samples_per_shard}: must be at least 1")
    if processes < 1:
        raise UserError(f"--processes {processes}: must be at least 1")
    names = [job.source.name for job in jobs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"source '{twice[0]}' is packed twice; give each its own name (`options: {{name: ...}}`)")
    check_weights(options.weights, anatomies, names)
    for job in jobs:
        if job.source.root != Path() and out.resolve().is_relative_to(job.source.root.resolve()):
            raise UserError(f"--out {out}: lies in {job.source.root}, which is packed; choose another folder")


def _fingerprint(listing: Listing, jobs: Sequence[Job], options: Options, samples_per_shard: int) -> str:
    """Return a hash of all that the shards depend on."""
    planned = [(job.source.name, job.weight, sorted(job.splits.items())) for job in jobs]
    chosen = json.dumps(asdict(options), sort_keys=True)
    told = repr((listing.fingerprint, planned, chosen, samples_per_shard))
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()
