"""Several runs in one table, each against the first on the same images: the function behind `arl compare`."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from arl_lightning.arguments import positional
from arl_lightning.errors import UserError
from arl_lightning.evaluation.bootstrap import bootstrap_interval, paired_bootstrap
from arl_lightning.evaluation.comparison import ENDINGS, Comparison, Difference, Row, refuse_ending, spread_note
from arl_lightning.evaluation.delong import delong_test
from arl_lightning.evaluation.files import plain
from arl_lightning.evaluation.overlap_table import COLUMNS, OverlapTable
from arl_lightning.evaluation.predictions import Predictions, aligned_to
from arl_lightning.evaluation.results import BIASED, DECISIONS
from arl_lightning.evaluation.runs import (
    Member,
    Scored,
    align_table,
    average_seeds,
    by_seed,
    by_share,
    find_members,
    pool_folds,
)
from arl_lightning.evaluation.schema import FILE, estimate
from arl_lightning.evaluation.tables import FILE as TABLE
from arl_lightning.evaluation.wording import counts_text, grouping_sentence

LEVEL = 0.95
OF_TWO = ("accuracy", "auroc", "sensitivity", "specificity")
OF_SEVERAL = ("top1", "top3", "macro_f1", "auroc")


class Contender:
    """A run with its seeds and folds put together.

    Attributes:
        name: Its folder as named.
        members: Its trainings.
        seeds: Each with its folds pooled.
        scored: All seeds together.
    """

    def __init__(self, run: Path, per_video: bool) -> None:
        self.name, self.members = str(run), find_members(run)
        if len(shares := by_share(self.members)) > 1:
            said = ", ".join(f"{share:g}" for share in shares)
            raise UserError(f"{run}: holds shares {said} of the labels; name the folder of one, or use arl summary")
        seeds = [pool_folds(group) for group in by_seed(self.members).values()]
        self.seeds = [each.per_video() for each in seeds] if per_video else seeds
        try:
            self.scored = average_seeds(self.seeds)
        except UserError as error:
            raise UserError(f"{run}: its seeds cannot be averaged: {error}") from error

    @property
    def first(self) -> Member:
        """Its first training, which the others agree with in all that a table says."""
        return self.members[0]

    @property
    def split(self) -> tuple[str, ...]:
        """Name what it is tested on."""
        return tuple(sorted({each.results["split_hash"] for each in self.members}))


@positional("runs")
def compare(
    runs: list[Path],
    metrics: list[str] | None = None,
    per_video: bool = False,
    num_resamples: int = 2000,
    seed: int = 0,
    out: Path | None = None,
    figure: Path | None = None,
) -> str:
    """Compare runs on the same test part: a table with intervals, and each run's difference to the first.

    Args:
        runs: Folders of runs; the others are compared with the first.
        metrics: Those compared; by default the usual ones of the task.
        per_video: Compare clips by the mean probability of their frames.
        num_resamples: Of the bootstrap over patients.
        seed: Of the bootstrap.
        out: A .csv, .json or .md file for the same.
        figure: A .png file for the intervals as a picture.

    Raises:
        UserError: If a folder holds no run, or runs have other test parts.
    """
    refuse_ending(out, ENDINGS, "out")
    refuse_ending(figure, (".png",), "figure")
    comparison = compared(runs, metrics, per_video, num_resamples, seed)
    if out is not None:
        comparison.write(out)
    if figure is not None:
        from arl_lightning.evaluation.comparison_figures import draw_forest
        from arl_lightning.evaluation.drawing import save_png

        save_png(draw_forest(comparison), figure)
    return str(comparison)


def compared(
    runs: Sequence[Path],
    metrics: Sequence[str] | None = None,
    per_video: bool = False,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Return what `compare` prints."""
    if len(runs) < 2:
        raise UserError("compare: name the folders of two runs or more")
    contenders = [Contender(run, per_video) for run in runs]
    for other in contenders[1:]:
        _refuse_other_split(contenders[0], other)
        other.scored = _aligned(contenders[0], other)
    first = contenders[0].scored
    names = _metrics(first, metrics)
    groups = first.test.groups()
    rows = [_row(contenders[0], each, names, groups, num_resamples, seed) for each in contenders]
    return Comparison(
        about=_about(contenders[0]),
        grouping=grouping_sentence(first.test.grouped_by, len(np.unique(groups))),
        metrics=names,
        rows=tuple(rows),
        notes=_notes(contenders, rows, names),
        level=LEVEL,
        num_resamples=num_resamples,
        num_images=first.num_images,
        has_delong="auroc" in names and _is_of_two(first),
    )


def _refuse_other_split(first: Contender, other: Contender) -> None:
    paths = [each.first.folder / FILE for each in (first, other)]
    for name in ("task", "kind"):
        own, strange = dict(first.first.results)[name], dict(other.first.results)[name]
        if own != strange:
            raise UserError(f"{paths[0]}: {name} {own}, but {paths[1]}: {strange}; these cannot be compared")
    if first.split != other.split:
        said = [" ".join(each.split) for each in (first, other)]
        raise UserError(
            f"{paths[0]}: split {said[0]}, but {paths[1]}: split {said[1]}; only runs on one test part can be compared"
        )


def _aligned(first: Contender, other: Contender) -> Scored:
    """Return the other's scores in the order of the first's images."""
    own, strange = first.scored.test, other.scored.test
    try:
        if isinstance(own, Predictions) and isinstance(strange, Predictions):
            return replace(other.scored, test=aligned_to(own, strange))
        if isinstance(own, OverlapTable) and isinstance(strange, OverlapTable):
            return replace(other.scored, test=align_table(own, strange))
    except UserError as error:
        paths = [each.first.folder / TABLE for each in (first, other)]
        raise UserError(f"{paths[0]} and {paths[1]} cannot be compared: {error}") from error
    raise UserError(f"{first.name} and {other.name}: masks and classes cannot be compared")


def _metrics(first: Scored, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is not None:
        if unknown := [name for name in wanted if name not in first.names]:
            raise UserError(f"--metrics {unknown[0]}: choose from {', '.join(first.names)}")
        return tuple(dict.fromkeys(wanted))
    usual = COLUMNS if isinstance(first.test, OverlapTable) else OF_TWO if _is_of_two(first) else OF_SEVERAL
    return tuple(name for name in usual if name in first.names)


def _is_of_two(scored: Scored) -> bool:
    return isinstance(scored.test, Predictions) and scored.test.positive is not None


def _row(
    first: Contender, own: Contender, names: Sequence[str], groups: np.ndarray, num_resamples: int, seed: int
) -> Row:
    results, statistic = own.first.results, own.scored.statistic(names)
    intervals = bootstrap_interval(statistic, groups, num_resamples, seed, LEVEL)
    differences = {} if own is first else _differences(first.scored, own.scored, names, groups, num_resamples, seed)
    folds = [each.results["fold"] for each in own.members]
    return Row(
        name=own.name,
        protocol=results["protocol"],
        checkpoint=str(results["checkpoint"]["spec"]),
        sha256=results["checkpoint"]["sha256"],
        fraction=results["fraction"],
        n_train=results["n"].get("train"),
        seeds=tuple(by_seed(own.members)),
        num_folds=None if None in folds else len(set(folds)),
        metrics=plain({name: estimate(intervals[name], name not in BIASED) for name in names}),
        differences=plain(differences),
        over_seeds=_over_seeds(own, names),
    )


def _differences(
    first: Scored, own: Scored, names: Sequence[str], groups: np.ndarray, num_resamples: int, seed: int
) -> dict[str, Difference]:
    paired = paired_bootstrap(own.statistic(names), first.statistic(names), groups, num_resamples, seed, LEVEL)
    return {
        name: {
            "difference": paired[name].difference,
            "low": paired[name].low,
            "high": paired[name].high,
            "p": paired[name].p,
            "delong_p": _delong_p(first.test, own.test, groups) if name == "auroc" else None,
        }
        for name in names
    }


def _delong_p(first: Predictions | OverlapTable, own: Predictions | OverlapTable, groups: np.ndarray) -> float | None:
    if not isinstance(first, Predictions) or not isinstance(own, Predictions) or first.positive is None:
        return None
    is_positive = first.labels == first.positive
    p = delong_test(is_positive, own.positive_scores(), first.positive_scores(), groups, LEVEL).p
    return None if math.isnan(p) else p


def _over_seeds(own: Contender, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    if len(own.seeds) < 2:
        return {}
    found = [each.statistic(names)(np.arange(len(each.test))) for each in own.seeds]
    values = {name: [each[name] for each in found] for name in names}
    return {name: (float(np.mean(each)), float(np.std(each, ddof=1))) for name, each in values.items()}


def _about(first: Contender) -> str:
    results, test = first.first.results, first.scored.test
    split = f"{results['task']}, split {' '.join(first.split)}, test n = {first.scored.num_images:,}"
    if isinstance(test, OverlapTable):
        return f"{split}, {', '.join(test.names)}"
    counts = np.bincount(test.labels, minlength=len(test.classes)).tolist()
    return f"{split} ({counts_text(dict(zip(test.classes, counts, strict=True)))})"


def _notes(contenders: Sequence[Contender], rows: Sequence[Row], names: Sequence[str]) -> tuple[str, ...]:
    notes = [spread_note(row) for row in rows if row.over_seeds]
    if len(numbers := sorted({len(row.seeds) for row in rows})) > 1:
        said = " and ".join(str(number) for number in numbers)
        notes.append(
            f"runs of {said} seeds: an average of several models does better than one, so compare equal numbers"
        )
    if _is_of_two(contenders[0].scored) and set(names) & set(DECISIONS):
        without = [each.name for each in contenders if each.scored.validation is None]
        said = f"; {', '.join(without)}: the likeliest class, for want of one validation part" if without else ""
        notes.append(f"decisions at the threshold of the highest Youden index on each run's validation part{said}")
    notes.append(
        "p: paired bootstrap, two-sided" + (f", not corrected for {len(rows) - 1} runs" if len(rows) > 2 else "")
    )
    if "auroc" in names and _is_of_two(contenders[0].scored) and contenders[0].scored.test.grouped_by != "image":
        notes.append("DeLong p: by groups (Obuchowski 1997), as images of one are not independent")
    return tuple(notes)
