"""The tables of predictions: one row an image, Parquet.

N images, C classes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arl_lightning.errors import UserError
from arl_lightning.evaluation.files import replacing
from arl_lightning.evaluation.predictions import Part, Predictions

FILE = "predictions.parquet"
PREFIX = "prob_"  # of the columns of probabilities
METADATA = b"arl_lightning"


def write_parquet(path: Path, predictions: Sequence[Predictions]) -> None:
    """Write one row an image of one or several parts: key, patient, video, label, `prob_<class>`, part, fold, seed."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.concat_tables([pa.table(_columns(each), schema=_schema(each)) for each in predictions])
    with replacing(path) as temporary:
        parquet.write_table(table, temporary)


def read_parquet(path: Path, part: Part = "test") -> Predictions:
    """Read what `write_parquet` wrote of one part.

    Raises:
        UserError: If the file is missing, is not ours, or has nothing of the part.
    """
    found = read_parts(path)
    if part not in found:
        raise UserError(f"{path}: has no predictions of the {part} part")
    return found[part]


def read_parts(path: Path) -> dict[Part, Predictions]:
    """Read all parts that a table holds.

    Raises:
        UserError: If the file is missing or is not ours.
    """
    table, about = read_table(path, "classification")
    of_row = np.array(table["part"].to_pylist(), str)
    parts: tuple[Part, ...] = ("val", "test")
    return {part: _part(table.filter(of_row == part), about, part) for part in parts if (of_row == part).any()}


def _part(rows: Any, about: dict[str, Any], part: Part) -> Predictions:
    column = {name: rows[name].to_pylist() for name in ("key", "patient", "video", "label", "fold", "seed")}
    classes = tuple(about["classes"])
    probabilities = np.stack([rows[f"{PREFIX}{name}"].to_numpy() for name in classes], axis=1)  # (N, C)
    places = {name: place for place, name in enumerate(classes)}
    return Predictions(
        column["key"], column["patient"], column["video"], np.array([places[name] for name in column["label"]]),
        probabilities, classes, about["positive"], part,
        None if None in column["fold"] else np.array(column["fold"]), column["seed"][0],
    )  # fmt: skip


def read_table(path: Path, kind: str) -> tuple[Any, dict[str, Any]]:
    """Read a table of ours, with what it says of itself.

    Raises:
        UserError: If the file is missing, damaged, or of another kind.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        about = json.loads((table.schema.metadata or {})[METADATA])
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; name a folder that a finished run left") from error
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        raise UserError(f"{path}: is not a table of predictions of ours; run it again") from error
    if about.get("kind") != kind:
        raise UserError(f"{path}: holds {about.get('kind')}, not {kind}")
    return table, about


def metadata(kind: str, **about: Any) -> dict[bytes, bytes]:
    """Return what a table says of itself."""
    return {METADATA: json.dumps({"kind": kind, "format": 1, **about}).encode()}


def _schema(predictions: Predictions) -> Any:
    import pyarrow as pa

    names = [(name, pa.string()) for name in ("key", "patient", "video", "label")]
    scores = [(f"{PREFIX}{name}", pa.float64()) for name in predictions.classes]
    origin = [("part", pa.string()), ("fold", pa.int64()), ("seed", pa.int64())]
    about = metadata("classification", classes=predictions.classes, positive=predictions.positive)
    return pa.schema(names + scores + origin, metadata=about)


def _columns(predictions: Predictions) -> dict[str, Any]:
    number = len(predictions)
    scores = {f"{PREFIX}{name}": predictions.probabilities[:, k] for k, name in enumerate(predictions.classes)}
    return {
        "key": predictions.keys,
        "patient": predictions.patients,
        "video": predictions.videos,
        "label": [predictions.classes[label] for label in predictions.labels],
        **scores,
        "part": [predictions.part] * number,
        "fold": [None] * number if predictions.folds is None else predictions.folds,
        "seed": [predictions.seed] * number,
    }
