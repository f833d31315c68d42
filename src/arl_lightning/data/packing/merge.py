"""Merges packed corpora into one, shuffled anew, without decoding an image: the function behind `arl shards merge`.

N samples of all corpora. The images' and records' bytes stay as they are; like packing, merging goes on after a kill
and gives the same shards whatever the number of processes.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arl_lightning.arguments import positional
from arl_lightning.data.packing.locate import locate_samples
from arl_lightning.data.packing.plan import ORDER, TRAIN, Options, PlannedSource, repeats_of, shuffle, weights_of
from arl_lightning.data.packing.spool import read_record
from arl_lightning.data.packing.work import (
    begin,
    close_work_folder,
    forget_other_shards,
    has_begun,
    refuse_other_corpus,
    work_folder,
)
from arl_lightning.data.packing.writer import Contents, check_space, write_corpus
from arl_lightning.data.shards.inventory import ListedShard, count_processes, list_shards
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.wording import count, human_size
from arl_lightning.errors import UserError


@dataclass(frozen=True)
class MergeReport:
    """What was merged; as a string, what the command line prints.

    Attributes:
        out: The shards' folder.
        num_corpora: Merged folders.
        manifests: The shards of each split, "" where there are none.
        seconds: The time it took.
        was_there: Whether all of it had been merged before.
    """

    out: Path
    num_corpora: int
    manifests: Mapping[str, Manifest]
    seconds: float
    was_there: bool = False

    def __str__(self) -> str:
        num_samples = sum(manifest.num_samples for manifest in self.manifests.values())
        merged = f"{count(num_samples, 'image')} of {self.num_corpora} corpora"
        speed = f"in {self.seconds:.1f} s ({num_samples / max(self.seconds, 1e-9):,.0f} img/s)"
        first = f"{merged} are merged already, with the same options" if self.was_there else f"merged {merged} {speed}"
        lines = [line for split, manifest in self.manifests.items() for line in self._lines(split, manifest)]
        return "\n".join([first, *lines])

    def _lines(self, split: str, manifest: Manifest) -> list[str]:
        counts = (", ".join(f"{name} {number:,}" for name, number in each.items())
                  for each in (manifest.anatomies, manifest.sources))  # fmt: skip
        size = human_size(sum(shard.num_bytes for shard in manifest.shards))
        return [
            *([f"  {split}: {count(manifest.num_samples, 'image')}"] if split else []),
            *(f"  {title:11}{text}" for title, text in zip(("anatomies", "sources"), counts, strict=True)),
            f"  {'shards':11}{len(manifest.shards):,} in {self.out / split}, {size}",
        ]


@positional("shards")
def merge(
    shards: list[Path],
    out: Path,
    seed: int = 0,
    samples_per_shard: int = 2000,
    weights: dict[str, float] = {},  # noqa: B006 (read only; jsonargparse shows it in --help)
    processes: int | None = None,
) -> MergeReport:
    """Merge packed corpora into one, in one global shuffle; images and records stay byte for byte.

    Corpora with splits are merged split by split; one without joins the split `train`. Every shard is compared with its
    manifest's checksum first. Stopped at any time and called again it goes on where it stopped.

    Args:
        shards: Folders with packed shards.
        out: Folder for the merged shards; must hold no other corpus and lie in none.
        seed: Of the shuffle and the weights.
        samples_per_shard: The most images of one shard.
        weights: Anatomy or source -> how often its images are packed, e.g. `{cardiac: 0.5, thyroid: 2}`; in `train`
            alone where there are splits.
        processes: How many work at once, by default one for each core; the shards do not depend on it.

    Returns:
        The report, for printing.

    Raises:
        UserError: If an argument is wrong, a shard is damaged, two corpora hold the same sample, a patient would stand
            in two splits, or the disk is full.
    """
    start = time.perf_counter()
    num_processes = count_processes(processes)
    options = Options(seed, weights=weights)
    if samples_per_shard < 1:
        raise UserError(f"--samples_per_shard {samples_per_shard}: must be at least 1")
    listed = [shard for folder in shards for shard in list_shards(folder)]
    _refuse_inside(out, shards)
    _refuse_twice(listed)
    splits = _splits(listed, options)
    fingerprint = _fingerprint(listed, splits, options, samples_per_shard)
    with work_folder(out) as work:
        done = refuse_other_corpus(out, fingerprint)
        if done and not has_begun(work):
            return MergeReport(out, len(shards), done, time.perf_counter() - start, was_there=True)
        contents = _plan(listed, splits, options, fingerprint, num_processes)
        check_space(contents, out)
        begin(work)
        folder = work / f"shards-{fingerprint[:16]}"
        forget_other_shards(work, folder.name)
        manifests = write_corpus(out, folder, contents, samples_per_shard, fingerprint, num_processes)
        close_work_folder(out)
    return MergeReport(out, len(shards), manifests, time.perf_counter() - start)


def _refuse_inside(out: Path, shards: Sequence[Path]) -> None:
    if not shards:
        raise UserError("name the packed folders: arl shards merge DIR DIR ... --out DIR")
    for folder in shards:
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--out {out}: lies in {folder}, which is merged; choose another folder")


def _refuse_twice(listed: Sequence[ListedShard]) -> None:
    paths = [shard.path.resolve() for shard in listed]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise UserError(f"{twice[0]}: is merged twice; name each packed folder once")


def _splits(listed: Sequence[ListedShard], options: Options) -> list[str]:
    """Return the merged corpus's split of each shard."""
    names = sorted({shard.split for shard in listed} - {""})
    if names and TRAIN not in names and (options.weights or any(not shard.split for shard in listed)):
        raise UserError(
            f"the corpora have the splits {', '.join(names)}, and none is named '{TRAIN}': weights and corpora without"
            " splits would belong to that one"
        )
    return [shard.split or (TRAIN if names else "") for shard in listed]


def _fingerprint(listed: Sequence[ListedShard], splits: Sequence[str], options: Options, samples_per_shard: int) -> str:
    """Return a hash of all that the merged shards depend on."""
    inputs = [(split, shard.info.sha256) for shard, split in zip(listed, splits, strict=True)]
    told = repr((inputs, options.seed, sorted(options.weights.items()), samples_per_shard))
    return hashlib.sha256(told.encode()).hexdigest()


def _plan(
    listed: Sequence[ListedShard], splits: Sequence[str], options: Options, fingerprint: str, processes: int
) -> Contents:
    """Read where the samples lie, and decide their order in each split."""
    index, anatomies, sources = locate_samples(listed, processes)
    files = [shard.path for shard in listed]
    _refuse_collisions(index, files)
    names = list(dict.fromkeys(splits))
    split = np.array([names.index(name) for name in splits])[index["file"]]  # (N,)
    if len(names) > 1:
        _refuse_shared(index, split, files)
    weight = weights_of(index, anatomies, [PlannedSource(name) for name in sources], options.weights)
    # Copies are named by their number. The inputs may hold copies of their own, 1, 2, ...: these begin elsewhere.
    first_copy = int(fingerprint[:8], 16) << 16
    orders, copies = {}, {}
    for number, name in enumerate(names):
        members = np.flatnonzero(split == number)
        repeats = repeats_of(index["key"][members], weight[members], options.seed) if name in ("", TRAIN) else None
        order, copy = shuffle(index, members, repeats, np.random.default_rng((options.seed, ORDER, number)))
        if order.size:
            orders[name], copies[name] = order, np.where(copy > 0, first_copy + copy, 0)
    if not orders:
        raise UserError("no image is left to merge: all have the weight 0")
    return Contents(files, index, anatomies, sources, orders, copies)


def _refuse_collisions(index: np.ndarray, files: Sequence[Path]) -> None:
    order = np.argsort(index["key"], kind="stable")
    keys = index["key"][order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if twice.size:
        first, second = index[order[twice[0]]], index[order[twice[0] + 1]]
        one, other = files[first["file"]], files[second["file"]]
        record = read_record(one, first)
        raise UserError(
            f"sample {int(first['key']):016x} ({record['source']}/{record['name']}) stands in {one} and in {other},"
            f" {count(twice.size, 'sample')} in all; merge only one of these corpora"
        )


def _refuse_shared(index: np.ndarray, split: np.ndarray, files: Sequence[Path]) -> None:
    """Refuse patients, and clips, that stand in two splits: each corpus was split by itself."""
    for field in ("patient", "video"):
        known = np.flatnonzero(index[field] > 0)
        order = known[np.lexsort((split[known], index[field][known]))]
        same = index[field][order[1:]] == index[field][order[:-1]]
        shared = np.flatnonzero(same & (split[order[1:]] != split[order[:-1]]))
        if shared.size:
            first, second = index[order[shared[0]]], index[order[shared[0] + 1]]
            record = read_record(files[first["file"]], first)
            raise UserError(
                f"{field} {record[field]} of {record['source']} stands in {files[first['file']]} and, in another split,"
                f" in {files[second['file']]}; pack these corpora together, so that they are split together"
            )
