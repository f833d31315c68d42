"""What packing says: the report on the terminal, and the lists of what was not packed beside the shards."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arl_lightning.data.packing.plan import LEAKED_IMAGE, Plan
from arl_lightning.data.packing.spool import PartReport, read_record
from arl_lightning.data.shards.manifest import Manifest
from arl_lightning.data.wording import count, human_size, one_line
from arl_lightning.errors import UserError

REJECTED_FILE = "rejected.tsv"
FLAGGED_FILE = "flagged.tsv"
DUPLICATES_FILE = "duplicates.tsv"
HELD_OUT_FILE = "held_out.tsv"
NUM_SHOWN = 10
MAX_LISTED = 100_000  # rows of a list: a table that nobody reads must not outgrow the corpus

Rejections = tuple[tuple[str, str], ...]  # path, reason


@dataclass(frozen=True)
class PackReport:
    """What was packed and what was not; as a string, what the command line prints at its end.

    Attributes:
        out: The shards' folder.
        manifests: The shards of each split, "" where there are none.
        num_units: Files (or phantoms) that were read.
        rejected: The files, or parts of clips, that could not be read.
        left_out: Lines about duplicates and held-out images.
        seconds: The time it took.
        was_there: Whether all of it had been packed before.
    """

    out: Path
    manifests: Mapping[str, Manifest]
    num_units: int
    rejected: Rejections
    left_out: tuple[str, ...]
    seconds: float
    was_there: bool = False

    @property
    def num_samples(self) -> int:
        """Images in all splits together."""
        return sum(manifest.num_samples for manifest in self.manifests.values())

    def __str__(self) -> str:
        """Return the report as lines of text."""
        files = count(self.num_units, "file")
        first = f"packed {count(self.num_samples, 'image')} from {files} in {self.seconds:.1f} s"
        if self.was_there:
            first = f"{count(self.num_samples, 'image')} from {files} are packed already, with the same options"
        speed = "" if self.was_there else f" ({self.num_samples / max(self.seconds, 1e-9):,.0f} img/s)"
        next_folder = self.out / next(iter(self.manifests))
        return "\n".join(
            [
                first + speed,
                *(line for split, manifest in self.manifests.items() for line in self._split_lines(split, manifest)),
                *self.left_out,
                *([] if self.was_there else self._rejected_lines()),
                "next: arl pretrain --config recipes/pretrain/avit_tiny_cpu.yaml"
                f" --data.shards {shlex.quote(str(next_folder))}",
            ]
        )

    def _split_lines(self, split: str, manifest: Manifest) -> list[str]:
        size = human_size(sum(shard.num_bytes for shard in manifest.shards))
        lines = [f"  {split or 'corpus'}: {count(manifest.num_samples, 'image')}"] if split else []
        lines.append(f"  anatomies  {_counts(manifest.anatomies)}")
        if len(manifest.sources) > 1:
            lines.append(f"  sources    {_counts(manifest.sources)}")
        return [*lines, f"  shards     {len(manifest.shards):,} in {self.out / split}, {size}"]

    def _rejected_lines(self) -> list[str]:
        if not self.rejected:
            return ["  rejected   none"]
        shown = [f"    {one_line(path)}: {one_line(reason)}" for path, reason in self.rejected[:NUM_SHOWN]]
        more = len(self.rejected) - len(shown)
        tail = [f"    and {more:,} more"] if more else []
        return [f"  rejected   {len(self.rejected):,}, listed in {self.out / REJECTED_FILE}", *shown, *tail]


def write_rejected(reports: Sequence[PartReport], out: Path) -> Rejections:
    """List what could not be read beside the shards, and return it."""
    rejected = tuple(item for report in reports for item in report.rejected)
    _write_table(out / REJECTED_FILE, ("path", "reason"), rejected)
    return rejected


def write_flagged(reports: Sequence[PartReport], out: Path) -> tuple[str, ...]:
    """List what a person should look at beside the shards, and return lines for the report."""
    flagged = [item for report in reports for item in report.flagged]
    _write_table(out / FLAGGED_FILE, ("path", "reason"), flagged)
    return (
        (f"  flagged    {count(len(flagged), 'file')} to look at, listed in {out / FLAGGED_FILE}",) if flagged else ()
    )


def refuse_bad_share(source: str, reports: Sequence[PartReport], num_units: int, max_share: float, out: Path) -> None:
    """Raise a UserError if nothing of a source could be read, or less than the user has asked for."""
    rejected = [item for report in reports for item in report.rejected]
    num_samples = sum(report.num_samples for report in reports)
    share = len(rejected) / max(num_units, 1)
    if share <= max_share and num_samples:
        return
    names = ", ".join(f"{one_line(Path(path).name)} ({reason})" for path, reason in rejected[:3])
    limit = f"more than --max_bad_share {max_share:g}" if share > max_share else "no image is left"
    fix = "mend or exclude them" + (", or raise --max_bad_share" if num_samples else "")
    raise UserError(
        f"{one_line(source)}: {len(rejected)} of {count(num_units, 'file')} ({share:.1%}) cannot be read, {limit}:"
        f" {names}{', ...' if len(rejected) > 3 else ''}; all are listed in {out / REJECTED_FILE}; {fix}"
    )


def write_left_out(
    index: np.ndarray, held_out: np.ndarray, plan: Plan, files: Sequence[Path], dropped: bool, out: Path
) -> tuple[str, ...]:
    """List duplicates and held-out images beside the shards, by their names in their sources.

    Returns:
        Lines for the report, none where there is nothing to say.
    """

    def name(rows: np.ndarray, place: int) -> str:
        record = read_record(files[rows[place]["file"]], rows[place])
        return f"{record['source']}/{record['name']}"

    pairs = plan.duplicates[:MAX_LISTED]
    duplicates = [(*sorted((name(index, one), name(index, other))), str(distance)) for one, other, distance in pairs]
    _write_table(out / DUPLICATES_FILE, ("one", "other", "bits_apart"), duplicates)
    leaks = [
        (
            name(index, place),
            "is or looks like a held-out image" if plan.leaked[place] == LEAKED_IMAGE else "same patient or clip",
            name(held_out, plan.lookalike[place]) if plan.lookalike[place] >= 0 else "",
        )
        for place in np.flatnonzero(plan.leaked)[:MAX_LISTED]
    ]
    _write_table(out / HELD_OUT_FILE, ("image", "why", "held_out_image"), leaks)
    lines = []
    if len(plan.duplicates):
        fate = f"{int(plan.dropped.sum()):,} images dropped" if dropped else "kept (--drop_duplicates leaves them out)"
        lines.append(f"  alike      {count(len(plan.duplicates), 'pair')} in {out / DUPLICATES_FILE}; {fate}")
    if held_out.size:
        found = int((plan.leaked > 0).sum())
        listed = f", listed in {out / HELD_OUT_FILE}" if found else ""
        lines.append(f"  held out   {count(found, 'image')} left out of this corpus{listed}")
    return tuple(lines)


def _write_table(path: Path, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Write a tab-separated table, or take away that of an earlier run where there is nothing to list."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    # Sorted: the order of keyed names must not tell that of the files behind them.
    lines = ["\t".join(header), *sorted("\t".join(_one_field(field) for field in row) for row in rows)]
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    temporary.replace(path)


def _one_field(text: str) -> str:
    return text.replace("\t", " ").replace("\n", " ").replace("\r", " ")


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{one_line(name)} {number:,}" for name, number in Counter(dict(numbers)).most_common())
