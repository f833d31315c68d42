"""Finished runs in miniature: what a run leaves for comparing it, without its figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arl_lightning.evaluation.files import write_json
from arl_lightning.evaluation.overlap_table import OverlapTable
from arl_lightning.evaluation.predictions import Predictions
from arl_lightning.evaluation.results import evaluate
from arl_lightning.evaluation.schema import FORMAT, Checkpoint, RunInfo
from arl_lightning.evaluation.segmentation_results import segmentation_results
from arl_lightning.evaluation.tables import write_parquet


def leave(folder: Path, predictions: Sequence[Predictions] | OverlapTable, **changes: Any) -> Path:
    """Write `results.json` and `predictions.parquet`."""
    about = {
        "task": "busi", "protocol": "probe", "checkpoint": Checkpoint("none"), "split_hash": "5eed",
        "n": {"train": 400}, **changes,
    }  # fmt: skip
    info = RunInfo(**about)
    if isinstance(predictions, OverlapTable):
        predictions.write_parquet(folder / "predictions.parquet")
        kind, found = "segmentation", segmentation_results(predictions, 2)
    else:
        write_parquet(folder / "predictions.parquet", predictions)
        parts = {each.part: each for each in predictions}
        kind, found = "classification", evaluate(parts["test"], parts.get("val"), num_resamples=2)
    write_json(folder / "results.json", {"format": FORMAT, "kind": kind, **info.content(), **found})
    return folder
