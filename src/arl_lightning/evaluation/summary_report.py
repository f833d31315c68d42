"""The table and the curve of a run with several trainings: the function behind `arl summary`."""

from collections.abc import Mapping
from pathlib import Path

from arl_lightning.arguments import positional
from arl_lightning.errors import UserError
from arl_lightning.evaluation.files import numbered, write_json
from arl_lightning.evaluation.runs import find_members
from arl_lightning.evaluation.summary import Share, Summary, few_label_curve, summarize
from arl_lightning.evaluation.wording import aligned, interval_text, metric_name, number_text

FILE = "summary.json"
FIGURE = "few_labels.png"


def write_summary(run: Path, num_resamples: int = 2000, seed: int = 0) -> str:
    """Write `summary.json` beside a run's trainings, and the curve where there are several shares.

    Returns:
        The table, for printing.
    """
    summary = summarize(find_members(run), num_resamples=num_resamples, seed=seed)
    write_json(run / FILE, summary)
    if len(summary["shares"]) > 1:
        _draw({summary["protocol"]: summary}, run / FIGURE)
    return summary_text(summary)


@positional("runs")
def show_summary(
    runs: list[Path],
    metrics: list[str] | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    out: Path | None = None,
    figure: Path | None = None,
) -> str:
    """Show what seeds, folds and shares of the labels gave, run by run.

    Args:
        runs: Folders of runs, each with a folder for each training below it.
        metrics: Those wanted; by default those that the runs kept.
        num_resamples: Of the bootstrap over patients.
        seed: Of the bootstrap.
        out: A .json file for the numbers.
        figure: A .png file: the first metric against the share of the labels, a line for each run.

    Raises:
        UserError: If a folder holds no run, or a metric is not known.
    """
    if not runs:
        raise UserError("summary: name the folder of a run, or several")
    found = {str(run): summarize(find_members(run), metrics, num_resamples, seed) for run in runs}
    if out is not None:
        write_json(out, found)
    if figure is not None:
        _draw(found, figure)
    return "\n\n".join(f"{name}: {summary_text(each)}" for name, each in found.items())


def summary_text(summary: Summary) -> str:
    """Return a summary as the table that the command line prints."""
    first = summary["shares"][0]
    lines = [
        f"{summary['task']}, {summary['protocol']} from {summary['checkpoint']['spec']},"
        f" test n = {first['num_images']:,}",
        f"{summary['level']:.0%} intervals of the mean over seeds; {first['grouping']}",
    ]
    for share in summary["shares"]:
        trained = "" if share["n_train"] is None else f", {numbered(share['n_train'], 'training image')}"
        folds = "" if share["num_folds"] is None else f", {share['num_folds']} folds pooled"
        seeds = numbered(len(share["seeds"]), "seed")
        lines += ["", f"{share['fraction']:.3%}".rstrip("0%").rstrip(".") + f"% of the labels{trained}, {seeds}{folds}"]
        lines.append(_spread_table(share))
    return "\n".join(lines)


def _spread_table(share: Share) -> str:
    header = ["metric", "mean", "std", "min", "max"]
    has_folds = share["num_folds"] is not None
    rows = []
    for name, each in share["metrics"].items():
        numbers = [number_text(value, name) for value in (each["std"], each["min"], each["max"])]
        row = [metric_name(name), interval_text(each["mean"], each["low"], each["high"], name), *numbers]
        over = each["over_folds"] or {}
        row += [f"{number_text(over.get('mean'), name)} ± {number_text(over.get('std'), name)}"] if has_folds else []
        rows.append(row)
    return aligned([*header, "over folds"] if has_folds else header, rows)


def _draw(summaries: Mapping[str, Summary], path: Path) -> None:
    """Draw the first metric against the share of the labels, a line for each run."""
    from arl_lightning.evaluation.comparison_figures import draw_few_labels
    from arl_lightning.evaluation.drawing import save_png

    metric = next(iter(next(iter(summaries.values()))["shares"][0]["metrics"]))
    num_images = next(iter(summaries.values()))["shares"][0]["num_images"]
    curves = {name: few_label_curve(each, metric) for name, each in summaries.items()}
    save_png(draw_few_labels(curves, metric, num_images), path)
