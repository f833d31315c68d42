"""How numbers about runs are written for people."""

from collections.abc import Mapping, Sequence

from arl_lightning.evaluation.files import numbered

NAMES = {
    "auroc": "AUROC",
    "average_precision": "AP",
    "balanced_accuracy": "balanced acc.",
    "brier": "Brier",
    "dice": "Dice",
    "ece": "ECE",
    "hd95": "HD95 (px)",
    "iou": "mIoU",
    "macro_f1": "macro F1",
    "top1": "top-1",
    "top3": "top-3",
}
LOWER_IS_BETTER = ("ece", "brier", "hd95")
PIXELS = ("hd95",)


def metric_name(metric: str) -> str:
    """Return a metric's name as papers write it."""
    return NAMES.get(metric, metric)


def grouping_sentence(grouped_by: str, num_groups: int) -> str:
    """Say what an interval's resamples draw."""
    number = numbered(num_groups, "patient" if grouped_by == "patient" else grouped_by.split()[0])
    return {
        "patient": f"intervals resample {number}",
        "patient where known": f"intervals resample {num_groups:,} patients, or images where no patient is known",
        "video": f"no patient is known: intervals resample {number}",
        "image": f"no patient is known: intervals resample {number}",
    }[grouped_by]


def number_text(value: float | None, metric: str = "", digits: int = 3) -> str:
    """Return 0.874, or 12.3 for pixels, or `-` where a value is not defined."""
    if value is None or value != value:
        return "-"
    return f"{value:.1f}" if metric in PIXELS else f"{value:.{digits}f}"


def interval_text(value: float | None, low: float | None, high: float | None, metric: str = "", digits: int = 2) -> str:
    """Return `0.874 [0.81, 0.93]`."""
    if value is None or low is None or high is None:
        return number_text(value, metric)
    return f"{number_text(value, metric)} [{number_text(low, metric, digits)}, {number_text(high, metric, digits)}]"


def difference_text(value: float | None, low: float | None, high: float | None, metric: str = "") -> str:
    """Return `+0.034 [-0.01, 0.06]`."""
    sign = "+" if value is not None and value > 0 else ""
    return f"{sign}{interval_text(value, low, high, metric, digits=3)}"


def p_text(p: float | None) -> str:
    """Return 0.012, or <0.001."""
    return "-" if p is None or p != p else "<0.001" if p < 0.001 else f"{p:.3f}"


def shortened(spec: str) -> str:
    """Return a checkpoint's name without the folders above it, all but the last."""
    parts = spec.split("/")
    return spec if len(parts) <= 2 else "/".join(["...", *parts[-2:]])


def without_common_folders(names: Sequence[str]) -> list[str]:
    """Return paths without the folders that all of them lie in."""
    parts = [name.split("/") for name in names]
    shared = 0
    while len({tuple(each[: shared + 1]) for each in parts}) == 1 and all(len(each) > shared + 1 for each in parts):
        shared += 1
    return ["/".join(each[shared:]) for each in parts]


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with two spaces between columns, words to the left."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def counts_text(counts: Mapping[str, int]) -> str:
    """Return `87 benign, 55 malignant`."""
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())
