"""Counts what a packed corpus holds, from its records alone: the function behind `arl shards stats`."""

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arl_lightning.arguments import positional
from arl_lightning.data.shards.inventory import ListedShard, count_processes, list_shards, map_shards
from arl_lightning.data.shards.tally import Tally, count_shard
from arl_lightning.data.wording import human_size, one_line
from arl_lightning.errors import UserError

PICTURE = "stats.png"
TABLE = "stats.json"


@dataclass(frozen=True)
class Spread:
    """Of a number of pixels over all images; the deviation is the population's."""

    mean: float
    std: float
    minimum: int
    maximum: int


@dataclass(frozen=True)
class Groups:
    """Images by patient, or by clip.

    Attributes:
        number: Patients or clips.
        images: Images that name one.
        sizes: Number of images of each, ascending.
    """

    number: int
    images: int
    sizes: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True)
class SourceStats:
    """What one source contributes."""

    images: int
    anatomies: dict[str, int]
    patients: int
    clips: int


@dataclass(frozen=True)
class StatsReport:
    """What a corpus holds; as a string, the table that the command line prints.

    Attributes:
        shards: The folder.
        num_shards: Shards.
        num_samples: Images.
        anatomies: Images of each anatomy, the most frequent first.
        sources: The sources, the largest first.
        sizes: Images of each height and width.
        height: Spread of the heights in pixels.
        width: Spread of the widths in pixels.
        patients: Images by patient.
        clips: Images by clip.
        probes: Images of each kind of probe, `unknown` included.
        num_spaced: Images with a known pixel spacing.
        tar_bytes: All shards.
        image_bytes: Encoded images in them.
        record_bytes: Records in them.
        files: What was written.
    """

    shards: Path
    num_shards: int
    num_samples: int
    anatomies: dict[str, int]
    sources: dict[str, SourceStats]
    sizes: dict[tuple[int, int], int] = field(repr=False)
    height: Spread
    width: Spread
    patients: Groups
    clips: Groups
    probes: dict[str, int]
    num_spaced: int
    tar_bytes: int
    image_bytes: int
    record_bytes: int
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        total = self.num_samples
        size = human_size(self.tar_bytes)
        lines = [f"{one_line(self.shards)}: {total:,} images in {self.num_shards:,} shards, {size}"]
        lines += ["", f"  {'anatomy':20}{'images':>12}{'share':>8}"]
        lines += [f"  {one_line(name):20}{count:12,}{count / total:8.1%}" for name, count in self.anatomies.items()]
        lines += ["", f"  {'source':20}{'images':>12}{'share':>8}{'patients':>10}{'clips':>9}  anatomies"]
        lines += [self._source_line(name, source) for name, source in self.sources.items()]
        lines += ["", f"  {'pixels':20}{'mean':>12}{'std':>8}{'min':>10}{'max':>9}"]
        for name, spread in (("height", self.height), ("width", self.width)):
            lines.append(f"  {name:20}{spread.mean:12.1f}{spread.std:8.1f}{spread.minimum:10}{spread.maximum:9}")
        lines += ["", self._groups_line("patients", self.patients), self._groups_line("clips", self.clips)]
        probes = ", ".join(f"{one_line(name)} {count / total:.1%}" for name, count in self.probes.items())
        lines += [
            f"  {'probe':20}{probes}",
            f"  {'pixel spacing':20}known for {self.num_spaced / total:.1%} of the images",
        ]
        lines += [
            f"  {'bytes':20}images {human_size(self.image_bytes)} ({human_size(self.image_bytes / total)} each),"
            f" records {human_size(self.record_bytes)}, tar headers and padding"
            f" {human_size(self.tar_bytes - self.image_bytes - self.record_bytes)}"
        ]
        return "\n".join([*lines, *(f"  {'written':20}{one_line(path)}" for path in self.files)])

    def _source_line(self, name: str, source: SourceStats) -> str:
        patients, clips = (f"{number:,}" if number else "-" for number in (source.patients, source.clips))
        names = [one_line(anatomy) for anatomy in source.anatomies]
        anatomies = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        share = source.images / self.num_samples
        return f"  {one_line(name):20}{source.images:12,}{share:8.1%}{patients:>10}{clips:>9}  {anatomies}"

    def _groups_line(self, name: str, groups: Groups) -> str:
        if not groups.number:
            return f"  {name:20}none known"
        return (
            f"  {name:20}{groups.number:,}, with {np.median(groups.sizes):g} images in the median and"
            f" {groups.sizes[-1]:,} at most; {groups.images / self.num_samples:.1%} of the images name one"
        )

    def content(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        content = asdict(self)
        del content["files"]
        content["shards"] = str(self.shards)
        content["sizes"] = [[*size, count] for size, count in self.sizes.items()]
        for name, groups in (("patients", self.patients), ("clips", self.clips)):
            # [images of one, how many have as many]
            content[name]["sizes"] = [list(pair) for pair in sorted(Counter(groups.sizes).items())]
        return content


@positional("shards")
def stats(shards: Path, out: Path | None = None, processes: int | None = None) -> StatsReport:
    """Count a corpus's images by anatomy, source, size and patient; images are not read.

    An image that was packed several times, for its weight, counts as often.

    Args:
        shards: Folder with the shards and their manifest, or with a folder for each split: then of all together.
        out: Folder for stats.png, a figure of the corpus, and stats.json; nothing is written without.
        processes: How many work at once; by default one for each core.

    Returns:
        The report, for printing.

    Raises:
        UserError: If a shard cannot be read or a record does not follow the schema.
    """
    num_processes = count_processes(processes)
    listed = list_shards(shards)
    tally = Tally()
    for _, found in map_shards(count_shard, listed, num_processes, "stats"):
        tally.update(found)
    report = _report(shards, listed, tally)
    return report if out is None else _write(report, out)


def _report(shards: Path, listed: Sequence[ListedShard], tally: Tally) -> StatsReport:
    patients, clips = _group(tally.patients), _group(tally.videos)
    anatomies: Counter[str] = Counter()
    sources: dict[str, Counter[str]] = defaultdict(Counter)
    for (source, anatomy), count in tally.images.items():
        anatomies[anatomy] += count
        sources[source][anatomy] += count
    heights, widths = np.array(list(tally.sizes)).T
    counts = np.array(list(tally.sizes.values()))
    return StatsReport(
        shards=shards,
        num_shards=len(listed),
        num_samples=anatomies.total(),
        anatomies=_ordered(anatomies),
        sources={
            name: SourceStats(counter.total(), _ordered(counter), len(patients.get(name, ())), len(clips.get(name, ())))
            for name, counter in sorted(sources.items(), key=lambda item: (-item[1].total(), item[0]))
        },
        sizes=dict(sorted(tally.sizes.items())),
        height=_spread(heights, counts),
        width=_spread(widths, counts),
        patients=_groups(patients.values()),
        clips=_groups(clips.values()),
        probes=_ordered(tally.probes),
        num_spaced=tally.num_spaced,
        tar_bytes=sum(shard.info.num_bytes for shard in listed),
        image_bytes=tally.image_bytes,
        record_bytes=tally.record_bytes,
    )


def _write(report: StatsReport, out: Path) -> StatsReport:
    from arl_lightning.data.shards.stats_figure import draw_corpus, save_png  # a table alone needs no Matplotlib

    try:
        out.mkdir(parents=True, exist_ok=True)
        save_png(draw_corpus(report), out / PICTURE)
        temporary = out / f"{TABLE}.tmp"
        temporary.write_text(json.dumps(report.content(), indent=1) + "\n", encoding="utf-8")
        temporary.replace(out / TABLE)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    return StatsReport(**{**vars(report), "files": (out / PICTURE, out / TABLE)})


def _group(numbers: dict[str, array]) -> dict[str, np.ndarray]:
    """Return the images of each patient, or clip, of each source."""
    return {name: np.unique(np.frombuffer(each, np.uint64), return_counts=True)[1] for name, each in numbers.items()}


def _groups(sizes: Iterable[np.ndarray]) -> Groups:
    joined = np.sort(np.concatenate([*sizes, np.empty(0, np.int64)]))
    return Groups(len(joined), int(joined.sum()), tuple(joined.tolist()))


def _ordered(counter: Counter[str]) -> dict[str, int]:
    """Return the counts, the largest first, equal ones by name."""
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def _spread(values: np.ndarray, counts: np.ndarray) -> Spread:
    mean = float(np.average(values, weights=counts))
    std = float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
    return Spread(mean, std, int(values.min()), int(values.max()))
