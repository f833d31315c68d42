"""How well a run's masks cover the true ones, with intervals, and the files that keep it.

R rows, one for each image and structure.
"""

from pathlib import Path
from typing import Any

import numpy as np

from arl_lightning.evaluation.bootstrap import bootstrap_interval
from arl_lightning.evaluation.files import plain, write_json
from arl_lightning.evaluation.overlap_table import COLUMNS, OverlapTable
from arl_lightning.evaluation.schema import FILE, FORMAT, RunInfo, SegmentationEvaluation, estimate
from arl_lightning.evaluation.tables import FILE as TABLE
from arl_lightning.evaluation.wording import grouping_sentence


def segmentation_results(
    table: OverlapTable, num_resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> SegmentationEvaluation:
    """Return means with intervals by bootstrap over patients, as plain JSON.

    Args:
        table: Scores.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.
        level: Of the intervals.
    """
    groups = table.groups()
    intervals = bootstrap_interval(table.statistic, groups, num_resamples, seed, level)
    found: SegmentationEvaluation = {
        "metrics": {name: estimate(intervals[name]) for name in COLUMNS},
        "structures": {
            structure: {name: estimate(intervals[f"{name}/{structure}"]) for name in COLUMNS}
            for structure in table.names
        },
        "undefined": {structure: _undefined(table, structure) for structure in table.names},
        "level": level,
        "num_resamples": num_resamples,
        "num_images": len(set(table.keys)),
        "num_groups": len(np.unique(groups)),
        "grouped_by": table.grouped_by,
        "grouping": grouping_sentence(table.grouped_by, len(np.unique(groups))),
    }
    return plain(found)


def write_segmentation_run(folder: Path, info: RunInfo, results: SegmentationEvaluation, table: OverlapTable) -> Path:
    """Write `results.json`, `predictions.parquet` and `figures/overlap.png`; `results.json` last.

    Returns:
        The path of `results.json`.
    """
    from arl_lightning.evaluation.drawing import save_png
    from arl_lightning.evaluation.figures import draw_overlap

    table.write_parquet(folder / TABLE)
    save_png(draw_overlap(table, results), folder / "figures" / "overlap.png")
    write_json(folder / FILE, {"format": FORMAT, "kind": "segmentation", **info.content(), **results})
    return folder / FILE


def _undefined(table: OverlapTable, structure: str) -> dict[str, int]:
    rows = np.array(table.structures) == structure
    counts: dict[str, Any] = {name: int(np.isnan(getattr(table, name)[rows]).sum()) for name in COLUMNS}
    return {name: number for name, number in counts.items() if number}
