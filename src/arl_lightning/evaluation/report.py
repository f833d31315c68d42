"""All finished runs below some folders in one table: the function behind `arl report`."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arl_lightning.arguments import positional
from arl_lightning.errors import UserError
from arl_lightning.evaluation.compare import OF_SEVERAL, OF_TWO
from arl_lightning.evaluation.comparison import refuse_ending
from arl_lightning.evaluation.files import numbered, write_json, write_text
from arl_lightning.evaluation.overlap_table import COLUMNS
from arl_lightning.evaluation.report_groups import PHANTOM, Setting, gather, grouped, run_folder, unlike_most
from arl_lightning.evaluation.runs import Member
from arl_lightning.evaluation.summary import Share, Spread, summarize
from arl_lightning.evaluation.wording import interval_text, markdown, metric_name, number_text, shortened

RUNS = Path("runs")
ENDINGS = (".csv", ".json", ".md")
METRICS = tuple(dict.fromkeys((*OF_TWO, *OF_SEVERAL, *COLUMNS)))  # in the order of the columns
CSV_HEADER = (
    *("task", "protocol", "checkpoint", "sha256", "split_hash", "fraction", "setting", "num_seeds", "num_folds"),
    *("num_trainings", "n_train", "n", "metric", "mean", "std", "low", "high", "folder"),
)


@dataclass(frozen=True)
class Row:
    """Trainings that differ in seed and fold alone.

    Attributes:
        setting: What they agree in.
        checkpoint: The weights they began with, as given.
        told: Keys in which it is unlike most rows of its task and protocol.
        folder: That all of them lie in.
        num_trainings: How many there are.
        share: What they gave, see `summary.Share`.
    """

    setting: Setting
    checkpoint: str
    told: dict[str, str]
    folder: Path
    num_trainings: int
    share: Share

    @property
    def said(self) -> str:
        """The keys in words."""
        return ", ".join(f"{key} {value}" for key, value in self.told.items())


@dataclass(frozen=True)
class Report:
    """Everything that was found below some folders; as a string, what the command line prints.

    Attributes:
        rows: One for each setting.
        notes: How the numbers are meant, and what cannot be compared.
        faults: What could not be used, and what is unfinished.
        level: Of the intervals.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...]
    level: float

    def __str__(self) -> str:
        header, cells = self.table()
        widths = [max(len(row[column]) for row in [header, *cells]) for column in range(len(header))]
        header, *cells = [
            [cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [header, *cells]
        ]
        parts = [markdown(header, cells), "\n".join(f"- {note}" for note in self.notes)]
        if self.faults:
            parts += ["Left out, or unfinished:", "\n".join(f"- {fault}" for fault in self.faults)]
        return "\n\n".join(parts)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and a row of cells for each row, without columns that say nothing here."""
        metrics = [name for name in METRICS if any(name in row.share["metrics"] for row in self.rows)]
        header = ["task", "protocol", "from", "labels", "setting", "test part", "seeds", "folds", "train", "test"]
        names = _checkpoint_names(self.rows)
        several_parts = _tasks_with_several_parts(self.rows)
        cells = []
        for row, name in zip(self.rows, names, strict=True):
            own, share = row.setting, row.share
            cells.append([
                *(own.task, own.protocol, name, "" if own.fraction == 1 else f"{100 * own.fraction:g}%", row.said),
                own.split_hash[:8] if own.task in several_parts else "",
                *(str(len(share["seeds"])), str(share["num_folds"] or "")),
                *("" if share["n_train"] is None else f"{share['n_train']:,}", f"{share['num_images']:,}"),
                *(_cell(share["metrics"].get(metric), metric) for metric in metrics),
            ])  # fmt: skip
        used = [column for column in range(len(header) + len(metrics)) if any(row[column] for row in cells)]
        titles = header + [metric_name(name) for name in metrics]
        return [titles[column] for column in used], [[row[column] for column in used] for row in cells]

    def csv(self) -> str:
        """Return a line for each row and metric."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_HEADER)
        for row in self.rows:
            own, share = row.setting, row.share
            about = [own.task, own.protocol, row.checkpoint, _sha256(row), own.split_hash, own.fraction, row.said]
            about += [len(share["seeds"]), share["num_folds"], row.num_trainings, share["n_train"], share["num_images"]]
            for name, each in share["metrics"].items():
                writer.writerow([*about, name, each["mean"], each["std"], each["low"], each["high"], row.folder])
        return text.getvalue()

    def content(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        rows = [
            {
                **{name: value for name, value in vars(row.setting).items() if name not in ("keys", "weights")},
                **{"checkpoint": {"spec": row.checkpoint, "sha256": _sha256(row)}, "setting": row.told},
                **{"folder": row.folder, "num_trainings": row.num_trainings, **row.share},
            }
            for row in self.rows
        ]
        return {"level": self.level, "rows": rows, "notes": self.notes, "faults": self.faults}

    def write(self, path: Path) -> None:
        """Write a .csv, .json or .md file."""
        if path.suffix == ".json":
            write_json(path, self.content())
        else:
            write_text(path, self.csv() if path.suffix == ".csv" else str(self))


@positional("runs", anywhere=True)
def report(
    runs: list[Path] = [RUNS],  # noqa: B006 (read only; shown in --help)
    out: Path | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> str:
    """Gather all finished runs below some folders in one table, seeds and folds pooled.

    Args:
        runs: Folders.
        out: A .csv, .json or .md file for the same, also as -o.
        num_resamples: Of the bootstrap over patients.
        seed: Of the bootstrap.

    Raises:
        UserError: If a folder is missing, or nothing below it can be used.
    """
    refuse_ending(out, ENDINGS, "out")
    found = gathered(runs, num_resamples, seed)
    if out is None:
        return str(found)
    found.write(out)
    return f"{found}\n\nwritten to {out}"


def gathered(runs: Sequence[Path], num_resamples: int = 2000, seed: int = 0, level: float = 0.95) -> Report:
    """Return what `report` prints.

    Raises:
        UserError: If a folder is missing, or nothing below it can be used.
    """
    members, faults = gather(runs)
    groups, left_out = grouped(members)
    faults += left_out
    told, usual = _told(list(groups))
    rows = []
    for setting, together in groups.items():
        for group in together:
            more = {"folder": str(run_folder(group[0]))} if len(together) > 1 else {}
            try:
                rows.append(_row(setting, {**told[setting], **more}, group, num_resamples, seed, level))
            except UserError as error:
                faults.append(f"{run_folder(group[0])}: left out: {error}")
    if not rows:
        raise UserError(f"{' '.join(map(str, runs))}: nothing can be used: {'; '.join(faults)}")
    return Report(tuple(rows), (*_notes(rows, num_resamples, level), *usual), tuple(faults), level)


def _row(
    setting: Setting, told: dict[str, str], members: Sequence[Member], num_resamples: int, seed: int, level: float
) -> Row:
    share = summarize(members, _main_metrics(members[0]), num_resamples, seed, level)["shares"][0]
    checkpoint = str(members[0].results["checkpoint"]["spec"])
    return Row(setting, checkpoint, told, _common_folder(members), len(members), share)


def _main_metrics(member: Member) -> tuple[str, ...]:
    results: dict[str, Any] = dict(member.results)
    if results["kind"] == "segmentation":
        return COLUMNS
    usual = OF_TWO if results.get("positive") is not None else OF_SEVERAL
    return tuple(name for name in usual if name in results["metrics"])


def _told(settings: Sequence[Setting]) -> tuple[dict[Setting, dict[str, str]], list[str]]:
    """Return in what each setting is unlike most of its task and protocol, and a note on what these have."""
    told: dict[Setting, dict[str, str]] = {}
    notes = []
    for task, protocol in dict.fromkeys((each.task, each.protocol) for each in settings):
        own = [each for each in settings if (each.task, each.protocol) == (task, protocol)]
        usual, unlike = unlike_most(own)
        told |= dict(zip(own, unlike, strict=True))
        if usual:
            said = ", ".join(f"{key} {value}" for key, value in usual.items())
            notes.append(f"{task}, {protocol}: {said}, unless the row says otherwise")
    return told, notes


def _common_folder(members: Sequence[Member]) -> Path:
    common = os.path.commonpath([os.path.normpath(each.folder.absolute()) for each in members])
    return Path(common if any(each.folder.is_absolute() for each in members) else os.path.relpath(common))


def _sha256(row: Row) -> str | None:
    return None if row.setting.weights == row.checkpoint else row.setting.weights


def _checkpoint_names(rows: Sequence[Row]) -> list[str]:
    """Return short names of the weights, with the beginning of their hash where two have one name."""
    weights: dict[str, set[str]] = {}
    for row in rows:
        weights.setdefault(shortened(row.checkpoint), set()).add(row.setting.weights)
    names = [shortened(row.checkpoint) for row in rows]
    return [
        f"{name} ({row.setting.weights[:8]})" if len(weights[name]) > 1 else name
        for name, row in zip(names, rows, strict=True)
    ]


def _tasks_with_several_parts(rows: Sequence[Row]) -> dict[str, list[str]]:
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row.setting.task, set()).add(row.setting.split_hash[:8])
    return {task: sorted(own) for task, own in parts.items() if len(own) > 1}


def _cell(spread: Spread | None, metric: str) -> str:
    """Return `0.787 ± 0.012 [0.71, 0.86]`; without the spread for one seed."""
    if spread is None:
        return ""
    text = interval_text(spread["mean"], spread["low"], spread["high"], metric)
    value, space, interval = text.partition(" ")
    spread_text = "" if spread["std"] is None else f" ± {number_text(spread['std'], metric)}"
    return f"{value}{spread_text}{space}{interval}"


def _notes(rows: Sequence[Row], num_resamples: int, level: float) -> Iterator[str]:
    trainings = sum(row.num_trainings for row in rows)
    counted = f"{numbered(trainings, 'training')} in {numbered(len(rows), 'row')}"
    yield f"{counted}; folds pooled, mean over seeds ± their standard deviation"
    drawn = "patients, or of clips or images where no patient is known"
    yield f"[{level:.0%} interval] of that mean, by {num_resamples:,} resamples of {drawn}"
    for task, parts in _tasks_with_several_parts(rows).items():
        yield f"{task}: tested on {len(parts)} different test parts ({', '.join(parts)}): compare rows of one part only"
    if phantoms := sorted({row.setting.task for row in rows if ("root", PHANTOM) in row.setting.keys}):
        yield f"{', '.join(phantoms)}: made-up images; no score on them means anything"
