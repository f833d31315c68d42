"""The tables of predictions: one row an image, Parquet.

N images, C classes.
"""

import json
from collections.abc import Mapping, Sequence
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
    first = predictions[0]
    words = {name: _joined(predictions, name) for name in ("key", "patient", "video", "label", "part")}
    scores = {
        f"{PREFIX}{name}": np.concatenate([each.probabilities[:, place] for each in predictions])
        for place, name in enumerate(first.classes)
    }
    numbers = {name: _joined(predictions, name) for name in ("fold", "seed")}
    write_table(path, words, scores, numbers, about("classification", classes=first.classes, positive=first.positive))


def _joined(predictions: Sequence[Predictions], name: str) -> list[Any]:
    """Return a column of all parts."""
    column: list[Any] = []
    for each in predictions:
        whole = {"part": each.part, "seed": each.seed, "fold": None}  # the same for all rows
        own: dict[str, Sequence[Any]] = {
            "key": each.keys,
            "patient": each.patients,
            "video": each.videos,
            "label": [each.classes[label] for label in each.labels],
        }
        if name == "fold" and each.folds is not None:
            own[name] = each.folds.tolist()
        column += own[name] if name in own else [whole[name]] * len(each)
    return column


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
    table, said = read_table(path, "classification")
    of_row = np.array(table["part"].to_pylist(), str)
    parts: tuple[Part, ...] = ("val", "test")
    return {part: _part(table.filter(of_row == part), said, part) for part in parts if (of_row == part).any()}


def _part(rows: Any, said: dict[str, Any], part: Part) -> Predictions:
    column = {name: rows[name].to_pylist() for name in ("key", "patient", "video", "label", "fold", "seed")}
    classes = tuple(said["classes"])
    probabilities = np.stack([rows[f"{PREFIX}{name}"].to_numpy() for name in classes], axis=1)  # (N, C)
    places = {name: place for place, name in enumerate(classes)}
    return Predictions(
        column["key"], column["patient"], column["video"], np.array([places[name] for name in column["label"]]),
        probabilities, classes, said["positive"], part,
        None if None in column["fold"] else np.array(column["fold"]), column["seed"][0],
    )  # fmt: skip


def write_table(
    path: Path,
    words: Mapping[str, Sequence[str | None]],
    scores: Mapping[str, np.ndarray],
    numbers: Mapping[str, Sequence[int | None]],
    metadata: Mapping[bytes, bytes],
) -> None:
    """Write columns of text, of real numbers and of whole numbers, with what the table says of itself.

    Names of files and folders need not be valid Unicode, which Parquet wants: what is not is written as an escape.
    """
    import pyarrow as pa
    from pyarrow import parquet

    valid = {name: [None if word is None else _valid(word) for word in column] for name, column in words.items()}
    kinds = [(valid, pa.string()), (scores, pa.float64()), (numbers, pa.int64())]
    schema = pa.schema([(name, kind) for columns, kind in kinds for name in columns], metadata=metadata)
    with replacing(path) as temporary:
        parquet.write_table(pa.table({**valid, **scores, **numbers}, schema=schema), temporary)


def _valid(word: str) -> str:
    return word.encode(errors="backslashreplace").decode()


def read_table(path: Path, kind: str) -> tuple[Any, dict[str, Any]]:
    """Read a table of ours, with what it says of itself.

    Raises:
        UserError: If the file is missing, damaged, or of another kind.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        said = json.loads((table.schema.metadata or {})[METADATA])
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; name a folder that a finished run left") from error
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        raise UserError(f"{path}: is not a table of predictions of ours; run it again") from error
    if said.get("kind") != kind:
        raise UserError(f"{path}: holds {said.get('kind')}, not {kind}")
    return table, said


def about(kind: str, **more: Any) -> dict[bytes, bytes]:
    """Return what a table says of itself."""
    return {METADATA: json.dumps({"kind": kind, "format": 1, **more}).encode()}
