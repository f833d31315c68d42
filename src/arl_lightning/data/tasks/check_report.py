"""What `arl tasks check` prints."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from arl_lightning.data.tasks.case import Case, Finding, FindingKind, Listing
from arl_lightning.data.tasks.task import Task
from arl_lightning.data.wording import count, one_line

NUM_SHOWN = 20  # findings of each kind
KINDS: tuple[FindingKind, ...] = ("missing", "unreadable", "inconsistent", "note")
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class CheckReport:
    """What a task's files hold and what is wrong with them; as a string, what the command line prints.

    Attributes:
        task: The task.
        listing: Its cases.
        findings: Those of the listing, of the files and of the set.
        native_sizes: Height and width of each readable image, by place.
        with_masks: Whether masks were read.
    """

    task: Task
    listing: Listing
    findings: tuple[Finding, ...]
    native_sizes: Mapping[int, tuple[int, int]]
    with_masks: bool

    @property
    def num_stopping(self) -> int:
        """Findings that stop a training."""
        return sum(finding.stops for finding in self.findings)

    def __str__(self) -> str:
        place = self.task.table or self.task.root
        return "\n".join(
            [
                f"{self.task.name} at {one_line(place)}: {_contents(self.listing.cases)}",
                *_class_table(self.listing),
                *self._sizes(),
                *self._masks(),
                *self._findings(),
                f"  the set    {one_line(self.task.where)}",
            ]
        )

    def _sizes(self) -> list[str]:
        if not self.native_sizes:
            return ["  pixels     no image can be read"]
        sizes = list(self.native_sizes.values())
        heights, widths = zip(*sizes, strict=True)
        smallest, largest = min(sizes, key=_area), max(sizes, key=_area)
        middle = (median_low(heights), median_low(widths))
        said = ", ".join(
            f"{name} {w}x{h}" for name, (h, w) in (("least", smallest), ("median", middle), ("most", largest))
        )
        return [f"  pixels     {said}"]

    def _masks(self) -> list[str]:
        cases = self.listing.cases
        num_masks = sum(case.has_mask for case in cases)
        if not num_masks:
            return []
        structures = ", ".join(self.listing.structures) or "one structure"
        read = "" if self.with_masks else ", not read"
        return [f"  masks      {num_masks:,} of {count(len(cases), 'image')}, of {one_line(structures)}{read}"]

    def _findings(self) -> list[str]:
        by_kind = {kind: [each for each in self.findings if each.kind == kind] for kind in KINDS}
        lines = ["  " + ", ".join(f"{kind} {len(found):,}" for kind, found in by_kind.items())]
        for kind, found in by_kind.items():
            lines += [f"  {kind:12} {one_line(each.path)}: {one_line(each.reason)}" for each in found[:NUM_SHOWN]]
            if len(found) > NUM_SHOWN:
                lines.append(f"  {kind:12} and {len(found) - NUM_SHOWN:,} more; --list FILE writes all")
        return lines


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _contents(cases: Sequence[Case]) -> str:
    parts = [count(len(cases), "image")]
    clips = {case.video for case in cases if case.video is not None}
    patients = {case.patient for case in cases if case.patient is not None}
    if clips:
        parts.append(f"frames of {count(len(clips), 'clip')} among them")
    unknown = sum(case.patient is None for case in cases)
    known = f"{count(len(patients), 'patient')}{f', unknown for {unknown:,}' if unknown else ''}"
    return ", ".join([*parts, known if patients else "patients unknown"])


def _class_table(listing: Listing) -> list[str]:
    """Return a line a class with its images in each released part."""
    if not listing.classes:
        return []
    counts: Counter[tuple[str | None, str | None]] = Counter((case.label, case.split) for case in listing.cases)
    released = any(case.split for case in listing.cases)
    columns = (
        [part for part in (*PARTS, None) if any(counts[name, part] for name in listing.classes)] if released else []
    )
    width = max(12, *(len(one_line(name)) + 1 for name in listing.classes))
    lines = [f"  {'class':{width}} {'images':>8}" + "".join(f"{part or 'none':>8}" for part in columns)]
    for name in listing.classes:
        total = sum(number for (label, _), number in counts.items() if label == name)
        row = "".join(f"{counts[name, part]:>8,}" for part in columns)
        positive = "  positive" if name == listing.positive else ""
        lines.append(f"  {one_line(name):{width}} {total:>8,}{row}{positive}")
    return lines
