"""What a model said about each image of a part; folds and seeds put together.

N images, C classes, F frames of a clip.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from arl_lightning.errors import UserError

Part = Literal["val", "test"]
GroupedBy = Literal["patient", "patient where known", "video", "image"]

SUM_TOLERANCE = 1e-3  # of an image's probabilities, which may come from bf16


@dataclass(frozen=True)
class Predictions:
    """Probabilities for the images of one part, with what is known of each image.

    Attributes:
        keys: Name each image in its task.
        patients: Identify the patient, None where unknown.
        videos: Identify the clip that a frame is of, None for a still.
        labels: (N,) true classes, indices into `classes`.
        probabilities: (N, C), each row sums to one.
        classes: Names of the C classes.
        positive: The class that AUROC, sensitivity and specificity speak of, where there are two.
        part: The part of the split.
        folds: (N,) the fold whose model said it, None without folds.
        seed: Of the run.

    Raises:
        UserError: If the arrays do not fit each other, a probability is not one, or an image occurs twice.
    """

    keys: Sequence[str]
    patients: Sequence[str | None]
    videos: Sequence[str | None]
    labels: np.ndarray = field(repr=False)
    probabilities: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    positive: int | None = None
    part: Part = "test"
    folds: np.ndarray | None = field(default=None, repr=False)
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("keys", "patients", "videos", "classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int64))
        object.__setattr__(self, "probabilities", np.asarray(self.probabilities, np.float64))
        if self.folds is not None:
            object.__setattr__(self, "folds", np.asarray(self.folds, np.int64))
        _check_shapes(self)
        _check_values(self)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def grouped_by(self) -> GroupedBy:
        """What `groups` tells apart."""
        return grouping_of(self.patients, self.videos)

    def groups(self) -> np.ndarray:
        """Return (N,) names of what is independent: the patient, else the clip, else the image.

        The prefixes keep a patient's number apart from a clip's.
        """
        return np.array([group_of(*each) for each in zip(self.keys, self.patients, self.videos, strict=True)], str)

    def positive_scores(self) -> np.ndarray:
        """Return (N,) probabilities of the positive class."""
        if self.positive is None:
            raise ValueError("no class is the positive one")
        return self.probabilities[:, self.positive]

    def at(self, places: np.ndarray) -> "Predictions":
        """Return some images."""
        return Predictions(
            [self.keys[place] for place in places],
            [self.patients[place] for place in places],
            [self.videos[place] for place in places],
            self.labels[places],
            self.probabilities[places],
            self.classes,
            self.positive,
            self.part,
            None if self.folds is None else self.folds[places],
            self.seed,
        )

    def per_video(self) -> "Predictions":
        """Return one row for each clip, with the mean of its frames' probabilities (F, C) -> (C,); stills stay.

        Raises:
            UserError: If the frames of a clip have several labels or patients.
        """
        rows: dict[tuple[str, int], list[int]] = {}
        for place, (key, video) in enumerate(zip(self.keys, self.videos, strict=True)):
            name = f"image {key}" if video is None else f"video {video}"
            rows.setdefault((name, 0 if self.folds is None else int(self.folds[place])), []).append(place)
        for (name, _), places in rows.items():
            if len({(int(self.labels[place]), self.patients[place]) for place in places}) > 1:
                raise UserError(f"{name}: its frames have several labels or patients; evaluate single frames")
        first = self.at(np.array([places[0] for places in rows.values()], int))
        means = [self.probabilities[places].mean(axis=0) for places in rows.values()]
        return Predictions(
            [name for name, _ in rows], first.patients, first.videos, first.labels, np.array(means),
            self.classes, self.positive, self.part, first.folds, self.seed,
        )  # fmt: skip


def grouping_of(patients: Sequence[str | None], videos: Sequence[str | None]) -> GroupedBy:
    """Return what `group_of` tells apart among images."""
    known = sum(patient is not None for patient in patients)
    if known:
        return "patient" if known == len(patients) else "patient where known"
    return "video" if any(video is not None for video in videos) else "image"


def group_of(key: str, patient: str | None, video: str | None) -> str:
    """Return the name of what an image belongs to, and what is independent of all others."""
    if patient is not None:
        return f"patient {patient}"
    return f"video {video}" if video is not None else f"image {key}"


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Join the predictions of folds.

    Raises:
        UserError: If an image is tested in two of them, or they do not have the same classes.
    """
    first = parts[0]
    for each in parts[1:]:
        if (each.classes, each.positive, each.part) != (first.classes, first.positive, first.part):
            raise UserError(
                f"predictions of {first.part} for {', '.join(first.classes)} cannot be joined with those of"
                f" {each.part} for {', '.join(each.classes)}"
            )
    folds = [each.folds for each in parts if each.folds is not None]
    seeds = {each.seed for each in parts}
    return Predictions(
        [key for each in parts for key in each.keys],
        [patient for each in parts for patient in each.patients],
        [video for each in parts for video in each.videos],
        np.concatenate([each.labels for each in parts]),
        np.concatenate([each.probabilities for each in parts]),
        first.classes,
        first.positive,
        first.part,
        np.concatenate(folds) if len(folds) == len(parts) else None,
        seeds.pop() if len(seeds) == 1 else None,
    )


def average(seeds: Sequence[Predictions]) -> Predictions:
    """Return the mean probabilities of several seeds, images in the order of the first.

    Raises:
        UserError: If they are not about the same images with the same labels.
    """
    first = seeds[0]
    aligned = [aligned_to(first, each) for each in seeds]
    return replace(first, probabilities=np.mean([each.probabilities for each in aligned], axis=0), seed=None)


def aligned_to(first: Predictions, other: Predictions) -> Predictions:
    """Return predictions with their images in the order of the first's.

    Raises:
        UserError: If they are not about the same images with the same labels.
    """
    if (other.classes, other.positive, other.part) != (first.classes, first.positive, first.part):
        raise UserError(
            f"classes {', '.join(other.classes)} with positive {other.positive} of the {other.part} part are not"
            f" {', '.join(first.classes)} with {first.positive} of {first.part}"
        )
    places = {name: place for place, name in enumerate(_rows(other))}
    wanted = _rows(first)
    if strange := set(wanted) ^ places.keys():
        key, fold = min(strange)
        raise UserError(f"{len(strange)} images are in one alone, such as {key}{f' of fold {fold}' if fold else ''}")
    found = other.at(np.array([places[name] for name in wanted]))
    if (differing := np.flatnonzero(found.labels != first.labels)).size:
        place = int(differing[0])
        names = (first.classes[first.labels[place]], first.classes[found.labels[place]])
        raise UserError(f"{first.keys[place]} ({differing.size} such) is {names[0]} in one and {names[1]} in the other")
    return found


def _rows(predictions: Predictions) -> list[tuple[str, int]]:
    """Name rows: folds share validation images, but test each once."""
    if predictions.folds is None or predictions.part == "test":
        return [(key, 0) for key in predictions.keys]
    return list(zip(predictions.keys, predictions.folds.tolist(), strict=True))


def _check_shapes(predictions: Predictions) -> None:
    number, classes = len(predictions.keys), predictions.classes
    shapes = {
        "patients": (len(predictions.patients),),
        "videos": (len(predictions.videos),),
        "labels": predictions.labels.shape,
        "probabilities": predictions.probabilities.shape[:1],
        "folds": (number,) if predictions.folds is None else predictions.folds.shape,
    }
    for name, shape in shapes.items():
        if shape != (number,):
            raise UserError(f"predictions: {name} of shape {shape} for {number} images")
    if not number:
        raise UserError(f"predictions: the {predictions.part} part has no image")
    if predictions.probabilities.shape != (number, len(classes)):
        raise UserError(f"predictions: probabilities {predictions.probabilities.shape} for {len(classes)} classes")
    if len(set(classes)) < max(len(classes), 2):
        raise UserError(f"predictions: classes {', '.join(classes)}; at least two with names of their own are needed")
    if predictions.positive is not None and not (len(classes) == 2 and predictions.positive in (0, 1)):
        raise UserError(f"predictions: positive class {predictions.positive} of {len(classes)}; give it for two alone")


def _check_values(predictions: Predictions) -> None:
    keys, probabilities = predictions.keys, predictions.probabilities
    (twice, _), number = Counter(_rows(predictions)).most_common(1)[0]
    if number > 1:
        raise UserError(f"predictions: {twice} occurs {number} times in the {predictions.part} part")
    outside = (predictions.labels < 0) | (predictions.labels >= len(predictions.classes))
    if outside.any():
        place = int(np.argmax(outside))
        raise UserError(f"predictions: {keys[place]} has label {predictions.labels[place]}, which is no class")
    sound = (probabilities >= 0).all(axis=1) & (np.abs(probabilities.sum(axis=1) - 1) < SUM_TOLERANCE)
    if not sound.all():  # false for nan too
        key = keys[int(np.argmin(sound))]
        raise UserError(
            f"predictions: {key} ({np.sum(~sound)} such) has no probabilities that sum to one; did training diverge?"
        )
