"""What `results.json` holds, and reading it back."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

from arl_lightning.errors import UserError
from arl_lightning.evaluation.bootstrap import Interval

FILE = "results.json"
FORMAT = 1
PACKAGES = ("torch", "lightning", "timm", "numpy")

Kind = Literal["classification", "segmentation"]


class Estimate(TypedDict):
    """A metric with its bootstrap interval; None where it is not defined.

    Attributes:
        value: On the images as they are.
        low, high: The interval's ends. None where all resamples agree, as of a perfect score: that says nothing about
            other images. None for ece, see `Calibration.expected`.
        num_valid: Resamples in which it was defined.
    """

    value: float | None
    low: float | None
    high: float | None
    num_valid: NotRequired[int]


def estimate(interval: Interval, has_interval: bool = True) -> Estimate:
    """Return an interval as JSON holds it."""
    low, high = (interval.low, interval.high) if has_interval and interval.low < interval.high else (None, None)
    return {"value": interval.value, "low": low, "high": high, "num_valid": interval.num_valid}


class Threshold(TypedDict):
    """What probability of the positive class counts as a finding.

    Attributes:
        value: The threshold; of each fold where there are several.
        origin: How it was chosen, in words.
    """

    value: float | list[float]
    origin: str


class Confusion(TypedDict):
    """Numbers of images, a row for each true class and a column for each predicted one."""

    argmax: list[list[int]]
    threshold: list[list[int]] | None


class Bin(TypedDict):
    """Images whose confidence lies in (low, high], see `calibration.ReliabilityBin`."""

    low: float
    high: float
    confidence: float
    accuracy: float
    num_cases: int


class Calibration(TypedDict):
    """The expected calibration error, and the table that it is the weighted mean of.

    Attributes:
        ece: Its value.
        expected: The interval of the error that a calibrated model with the same confidences would show.
        bins: Those that hold images.
    """

    ece: float
    expected: list[float]
    bins: list[Bin]


class Evaluation(TypedDict):
    """Numbers about the test part.

    Attributes:
        metrics: Those that count decisions, such as accuracy, at the threshold where one was chosen.
        at_argmax: These for the likeliest class instead, where a threshold was chosen.
        level: Of all intervals.
        num_resamples: Bootstrap resamples behind each.
        num_images: Images, or clips.
        num_groups: What was resampled.
        grouped_by: What that is.
        grouping: The same in a sentence.
        classes: Their names, in the order of all rows and columns.
        positive: The class that AUROC, sensitivity and specificity speak of.
        class_counts: Images of each.
        threshold: Of the positive class; None for more than two classes.
        confusion: Counts.
        calibration: Of the probabilities.
        delong: AUROC with the interval of DeLong, of Obuchowski for groups; None for more than two classes.
        per_video: The same by clip, where clips have several frames.
    """

    metrics: dict[str, Estimate]
    at_argmax: dict[str, Estimate]
    level: float
    num_resamples: int
    num_images: int
    num_groups: int
    grouped_by: str
    grouping: str
    classes: list[str]
    positive: str | None
    class_counts: dict[str, int]
    threshold: Threshold | None
    confusion: Confusion
    calibration: Calibration
    delong: Estimate | None
    per_video: "Evaluation | None"


class SegmentationEvaluation(TypedDict):
    """Numbers about the test part's masks.

    Attributes:
        metrics: Means over the structures.
        structures: Means over the images for each structure.
        undefined: Images of each structure without the metric: HD95 needs both masks to have a pixel.
        level, num_resamples, num_images, num_groups, grouped_by, grouping: As in `Evaluation`.
    """

    metrics: dict[str, Estimate]
    structures: dict[str, dict[str, Estimate]]
    undefined: dict[str, dict[str, int]]
    level: float
    num_resamples: int
    num_images: int
    num_groups: int
    grouped_by: str
    grouping: str


@dataclass(frozen=True)
class Checkpoint:
    """The weights a run began with.

    Attributes:
        spec: As given on the command line.
        sha256: Of the file, None where there is none.
    """

    spec: str
    sha256: str | None = None


@dataclass(frozen=True)
class RunInfo:
    """What a run was.

    Attributes:
        task, protocol: Their names.
        checkpoint: The weights it began with.
        split_hash: Names the test part, see `data.tasks.splits.split_hash`.
        recipe: All options, as JSON can hold them.
        n: Images of each part, by the part's name.
        seed: Of initialisation and order.
        fold: Which of the folds is tested, None without folds.
        fraction: Share of the training labels that was used.
        seconds: It took.
        extra: Anything else worth keeping, such as the epoch that was chosen.
    """

    task: str
    protocol: str
    checkpoint: Checkpoint
    split_hash: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    n: Mapping[str, int] = field(default_factory=dict)
    seed: int | None = None
    fold: int | None = None
    fraction: float = 1.0
    seconds: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """Return it with the versions of what it ran on."""
        return {**asdict(self), "versions": versions()}


class RunResults(TypedDict):
    """All of `results.json`: `RunInfo`, with either kind's numbers beside it."""

    format: int
    kind: Kind
    task: str
    protocol: str
    checkpoint: dict[str, str | None]
    split_hash: str
    recipe: dict[str, Any]
    n: dict[str, int]
    seed: int | None
    fold: int | None
    fraction: float
    seconds: float | None
    extra: dict[str, Any]
    versions: dict[str, str]
    metrics: dict[str, Estimate]


def versions() -> dict[str, str]:
    """Return the versions of Python, of this project and of what decides its numbers."""
    found = {"python": platform.python_version()}
    for name in ("arl_lightning", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def read_results(folder: Path) -> RunResults:
    """Read a run's `results.json`.

    Raises:
        UserError: If it is missing or not ours.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: missing; name a folder that a finished run left") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not readable as JSON; run it again") from error
    if not isinstance(content, dict) or not {"format", "kind", *RunInfo.__dataclass_fields__} <= content.keys():
        raise UserError(f"{path}: is not a run's results; name a folder that a finished run left")
    if content["format"] != FORMAT:
        raise UserError(f"{path}: has format {content['format']}, this version reads {FORMAT}; run it again")
    return cast(RunResults, content)
