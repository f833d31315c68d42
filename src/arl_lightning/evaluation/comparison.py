"""What `arl compare` found, as numbers, as tables, and as files."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from arl_lightning.errors import UserError
from arl_lightning.evaluation.files import write_json, write_text
from arl_lightning.evaluation.schema import Estimate
from arl_lightning.evaluation.wording import (
    aligned,
    difference_text,
    interval_text,
    markdown,
    metric_name,
    number_text,
    p_text,
    shortened,
)

ENDINGS = (".csv", ".json", ".md")
CSV_HEADER = (
    *("run", "protocol", "checkpoint", "sha256", "fraction", "n_train", "num_seeds", "n", "metric"),
    *("value", "low", "high", "difference", "difference_low", "difference_high", "p", "delong_p"),
)


class Difference(TypedDict):
    """A run's metric less the first run's, on the same images.

    Attributes:
        difference: The run's less the first's.
        low, high: Paired bootstrap interval.
        p: Of no difference, by the same bootstrap.
        delong_p: DeLong's test, for the AUROC of two classes alone.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    delong_p: float | None


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        name: Its folder as named.
        protocol, checkpoint, sha256: What it was.
        fraction: Share of the labels.
        n_train: Training images, None where unknown.
        seeds, num_folds: What was put together.
        metrics: With intervals.
        differences: To the first run; empty for that.
        over_seeds: Mean and standard deviation over single seeds, where there are several.
    """

    name: str
    protocol: str
    checkpoint: str
    sha256: str | None
    fraction: float
    n_train: int | None
    seeds: tuple[int | None, ...]
    num_folds: int | None
    metrics: dict[str, Estimate]
    differences: dict[str, Difference]
    over_seeds: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Comparison:
    """Several runs on the same test part.

    Attributes:
        about: Task, split and numbers of images, in words.
        grouping: What was resampled, in words.
        metrics: Those compared.
        rows: One for each run; the first is what the others are compared with.
        notes: How decisions, seeds and p values are meant.
        level: Of the intervals.
        num_resamples: Of the bootstrap.
        num_images: Of the test part.
        has_delong: Whether DeLong's test applies.
    """

    about: str
    grouping: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    level: float
    num_resamples: int
    num_images: int
    has_delong: bool

    def __str__(self) -> str:
        values, differences = aligned(*self.value_table()), aligned(*self.difference_table())
        return "\n".join([*self._head(), "", values, "", self._versus(), differences, "", *self.notes])

    def markdown(self) -> str:
        """Return the same as Markdown."""
        values, differences = markdown(*self.value_table()), markdown(*self.difference_table())
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([" ".join(self._head()), "", values, "", self._versus(), "", differences, "", *notes])

    def value_table(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and a row for each run."""
        shares = any(row.fraction != 1 for row in self.rows)
        seeds = any(len(row.seeds) > 1 for row in self.rows)
        header = ["run", "protocol", "checkpoint", *(["labels"] if shares else []), *(["seeds"] if seeds else []), "n"]
        cells = []
        for row in self.rows:
            own = [row.name, row.protocol, shortened(row.checkpoint)]
            own += [f"{100 * row.fraction:g}%"] if shares else []
            own += [str(len(row.seeds))] if seeds else []
            own.append(f"{self.num_images:,}")
            found = [row.metrics[name] for name in self.metrics]
            own += [
                interval_text(each["value"], each["low"], each["high"], name)
                for name, each in zip(self.metrics, found, strict=True)
            ]
            cells.append(own)
        return header + [metric_name(name) for name in self.metrics], cells

    def difference_table(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and a row for each run and metric."""
        cells = []
        for row in self.rows[1:]:
            for name, each in row.differences.items():
                text = difference_text(each["difference"], each["low"], each["high"], name)
                own = [row.name, metric_name(name), text, p_text(each["p"])]
                delong = p_text(each["delong_p"]) if each["delong_p"] is not None else ""
                cells.append([*own, delong] if self.has_delong else own)
        return ["run", "metric", "difference", "p", *(["DeLong p"] if self.has_delong else [])], cells

    def content(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return {name: value for name, value in vars(self).items() if name != "rows"} | {
            "rows": [vars(row) for row in self.rows]
        }

    def csv(self) -> str:
        """Return a line for each run and metric."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_HEADER)
        for row in self.rows:
            own = [row.name, row.protocol, row.checkpoint, row.sha256, row.fraction, row.n_train, len(row.seeds)]
            for name in self.metrics:
                value, versus = row.metrics[name], row.differences.get(name)
                compared = [None] * 5 if versus is None else list(versus.values())
                writer.writerow([*own, self.num_images, name, value["value"], value["low"], value["high"], *compared])
        return text.getvalue()

    def write(self, path: Path) -> None:
        """Write a .csv, .json or .md file."""
        if path.suffix == ".json":
            write_json(path, self.content())
        else:
            write_text(path, self.csv() if path.suffix == ".csv" else self.markdown())

    def _head(self) -> Sequence[str]:
        return self.about, f"{self.level:.0%} intervals of {self.num_resamples:,} resamples; {self.grouping}"

    def _versus(self) -> str:
        return f"less {self.rows[0].name}, on the same images:"


def refuse_ending(path: Path | None, endings: Sequence[str], option: str) -> None:
    """Refuse a file that is not written.

    Raises:
        UserError: If its ending is another one.
    """
    if path is not None and path.suffix not in endings:
        raise UserError(f"--{option} {path}: must end with {' or '.join(endings)}")


def spread_note(row: Row) -> str:
    """Say what single seeds of a run gave."""
    single = ", ".join(
        f"{metric_name(name)} {number_text(mean, name)} ± {number_text(std, name)}"
        for name, (mean, std) in row.over_seeds.items()
    )
    what = "seeds" if None in row.seeds else f"seeds {', '.join(str(seed) for seed in row.seeds)}"
    return f"{row.name}: {what} averaged before scoring; single seeds, mean ± std: {single}"
