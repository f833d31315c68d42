"""Goes through an archive before it is packed: what matches which rule, what is rejected, where text may be.

The table quotes descriptions of exams, in which people write names: it is for a terminal inside of the institution, not
for a file beside the shards.
"""

from collections import Counter
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from arl_lightning.data.anatomy import OTHER
from arl_lightning.data.dicom.failures import reason_of
from arl_lightning.data.dicom.glimpse import Glimpse, drawn, glimpse
from arl_lightning.data.dicom.header import DESCRIPTIONS, places, texts
from arl_lightning.data.dicom.objects import DicomObject, open_object
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.dicom.regions import Kind, is_doppler, read_regions
from arl_lightning.data.dicom.timing import sampled_frames
from arl_lightning.data.sources.dicom import Dicom

NUM_EXAMPLES = 3
NUM_UNMATCHED = 12  # examples of what no rule matches: for those a rule may be missing
MAX_DISTINCT = 10_000  # descriptions that are counted for a rule; people write what they like
EXAMPLE_LENGTH = 60

UNMATCHED = "(no rule)"
GIVEN = "(option anatomy)"


@dataclass
class RuleCount:
    """What one rule matched: objects, frames that packing would take, and how the exams are called."""

    anatomy: str
    objects: int = 0
    frames: int = 0
    descriptions: Counter[str] = field(default_factory=Counter)


@dataclass
class Survey:
    """An archive's inventory; as a string, the table that the dry run prints.

    Attributes:
        root: Where it is.
        num_files: Files in it.
        num_objects: Those that are readable ultrasound, by their headers.
        num_stored_frames: Frames in them.
        rules: What each rule matched, by its number and name, in the order of the rules.
        rejected: Reason -> files, by headers alone.
        regions: How the objects tell where ultrasound is -> objects.
        kinds: `B-mode` and `Doppler` -> objects; those of Doppler become anatomy `doppler` whatever the rule says.
        looked_at: What the detectors made of some objects -> objects.
    """

    root: str
    num_files: int = 0
    num_objects: int = 0
    num_stored_frames: int = 0
    rules: dict[str, RuleCount] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    looked_at: Counter[str] = field(default_factory=Counter)

    @property
    def num_frames(self) -> int:
        """Frames that packing would take at the source's rate."""
        return sum(count.frames for count in self.rules.values())

    def __str__(self) -> str:
        """Return the tables as lines of text."""
        return "\n".join(
            [
                f"{self.root}: {self.num_files:,} files, {self.num_objects:,} ultrasound objects,"
                f" {self.num_frames:,} of {self.num_stored_frames:,} frames",
                "",
                *self._rule_lines(),
                "",
                *_counted("by their regions", self.regions),
                *_counted("by their kind", self.kinds),
                *_counted("rejected", self.rejected),
                *_counted("looked at with the detectors", self.looked_at),
            ]
        )

    def _rule_lines(self) -> list[str]:
        rows = [("rule", "anatomy", "objects", "frames", "exams, most frequent first (may name people)")]
        for name, count in sorted(self.rules.items(), key=_rule_order):
            shown = count.descriptions.most_common(NUM_UNMATCHED if name == UNMATCHED else NUM_EXAMPLES)
            examples = [f"{text} ({number:,})" for text, number in shown] or [""]
            rows.append((name, count.anatomy, f"{count.objects:,}", f"{count.frames:,}", examples[0]))
            rows += [("", "", "", "", example) for example in examples[1:]]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        form = "{:<{}}  {:<{}}  {:>{}}  {:>{}}  {}"
        return [
            form.format(rule, widths[0], anatomy, widths[1], objects, widths[2], frames, widths[3], exam).rstrip()
            for rule, anatomy, objects, frames, exam in rows
        ]


def survey(source: Dicom, num_looked_at: int = 200) -> Survey:
    """Read all headers of an archive, and the pixels of some of its objects.

    Args:
        source: With the options that packing will have.
        num_looked_at: Objects whose pixels go through the detectors, drawn evenly from all files.

    Raises:
        UserError: As `source.units()`.
    """
    result = Survey(str(source.root))
    looked_at = drawn(source.units(), num_looked_at)
    for unit in source.units():
        result.num_files += 1
        try:
            with open_object(source.path_of(unit), source.secondary_capture) as opened:
                _count_object(result, source, opened)
        except Exception as error:
            result.rejected[reason_of(error, source.root)] += 1
            continue
        if unit.name in looked_at:
            _count_glimpse(result, glimpse(source, unit))
    return result


def _count_object(result: Survey, source: Dicom, opened: DicomObject) -> None:
    frames, header = Frames(opened), opened.header
    rule = None if source.anatomy else source.rule_of(opened)
    name = f"{rule.number:>3} {rule.name}" if rule else GIVEN if source.anatomy else UNMATCHED
    count = result.rules.setdefault(name, RuleCount(source.anatomy or (rule.anatomy if rule else OTHER)))
    count.objects += 1
    count.frames += sum(1 for _ in sampled_frames(header, frames.num_frames, source.rate))
    if len(count.descriptions) < MAX_DISTINCT or _description(header) in count.descriptions:
        count.descriptions[_description(header)] += 1
    result.num_objects += 1
    result.num_stored_frames += frames.num_frames
    _count_regions(result, header, frames)


def _count_regions(result: Survey, header: Dataset, frames: Frames) -> None:
    regions = read_regions(header, frames.height, frames.width)
    if not regions.num_stated:
        state = "none: the detector decides"
    elif not regions.trusted:
        state = "unusable, of another picture's size or covering all of it: the detector decides"
    else:
        state = "stated" if regions.kept else "stated, none of B-mode or Doppler: rejected"
    result.regions[state] += 1
    told = bool(regions.kept) and regions.trusted
    doppler = any(region.kind is Kind.DOPPLER for region in regions.kept) or (not told and is_doppler(header))
    result.kinds["Doppler" if doppler else "B-mode"] += 1


def _count_glimpse(result: Survey, seen: Glimpse) -> None:
    if seen.reason:
        result.looked_at[f"rejected: {seen.reason}"] += 1
    else:
        origin = {"regions": "kept by regions", "detected": "kept by the detected outline", "whole": "kept whole"}
        result.looked_at[origin[seen.areas[0].origin]] += 1
    if seen.text_seen:
        result.looked_at["text seen in what is kept"] += 1
    if seen.text_stated:
        result.looked_at["BurnedInAnnotation is YES"] += 1


def _description(header: Dataset) -> str:
    """Return how an exam is called, fit for a terminal."""
    parts = [text for keyword in ("BodyPartExamined", *DESCRIPTIONS) for text in texts(header, keyword)]
    parts += filter(None, places(header, "ImageType")[2:3])
    joined = " | ".join(dict.fromkeys(parts)) or "(no description)"
    return "".join(letter if letter.isprintable() else "?" for letter in joined)[:EXAMPLE_LENGTH]


def _rule_order(item: tuple[str, RuleCount]) -> tuple[bool, str]:
    return item[0] == UNMATCHED, item[0]


def _counted(title: str, counts: Counter[str]) -> list[str]:
    if not counts:
        return [f"{title}: none"]
    return [f"{title}:", *(f"  {number:>9,}  {what}" for what, number in counts.most_common())]
