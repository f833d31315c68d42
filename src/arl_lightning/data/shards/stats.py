"""Counts what a packed corpus holds, from its records alone: the function behind `arl shards stats`."""

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from arl_lightning.arguments import positional
from arl_lightning.data.shards.inventory import ListedShard, count_processes, list_shards, map_shards
from arl_lightning.data.shards.stats_report import Groups, SourceStats, Spread, StatsReport
from arl_lightning.data.shards.tally import Tally, count_shard
from arl_lightning.errors import UserError

PICTURE = "stats.png"
TABLE = "stats.json"


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
