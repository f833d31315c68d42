"""How well a predicted mask covers the true one: Dice, IoU, and the 95% Hausdorff distance of their surfaces.

Legend: H rows and W columns of pixels, K structures; masks hold 0 for background and k for structure k.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

MEASURES = ("dice", "iou", "hd95")
QUANTILE = 95  # percent of a surface's pixels that HD95 covers


@dataclass(frozen=True)
class Overlap:
    """Scores of one structure in one image.

    Attributes:
        index: Identifies the image: its place in the list of cases.
        structure: What the mask shows.
        dice: 2 |P and T| / (|P| + |T|), in [0, 1]; 1 where both masks are empty, as an absence rightly predicted.
        iou: |P and T| / |P or T|, likewise.
        hd95: In pixels of the masks; 0 where both masks are empty, nan where one is.
    """

    index: int
    structure: str
    dice: float
    iou: float
    hd95: float


def score_masks(prediction: np.ndarray, truth: np.ndarray, structures: Sequence[str], index: int) -> list[Overlap]:
    """Score every structure of one image.

    Args:
        prediction: (H, W) integers, 0 for background and k for `structures[k - 1]`.
        truth: Likewise.
        structures: K names.
        index: The image's place in the list of cases.

    Raises:
        ValueError: If the shapes differ.
    """
    rows = []
    for value, structure in enumerate(structures, 1):
        predicted, true = prediction == value, truth == value
        rows.append(Overlap(index, structure, dice(predicted, true), iou(predicted, true), hd95(predicted, true)))
    return rows


def mean_overlap(rows: Sequence[Overlap]) -> dict[str, float]:
    """Average over images, then over structures: `dice`, `iou`, and `hd95` over the rows that have one.

    With several structures each has its own means as well, `dice/STRUCTURE` and so on. A mean of nothing is nan.
    """
    structures = dict.fromkeys(row.structure for row in rows)
    means = {name: _means([row for row in rows if row.structure == name]) for name in structures}
    overall = {name: _mean([own[name] for own in means.values()]) for name in MEASURES}
    each = {f"{name}/{structure}": own[name] for structure, own in means.items() for name in MEASURES}
    return overall | (each if len(means) > 1 else {})


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return 2 |P and T| / (|P| + |T|) of two (H, W) bool masks; 1 where both are empty (Dice 1945).

    Raises:
        ValueError: If the shapes differ.
    """
    both, total = _intersection(prediction, truth), int(prediction.sum()) + int(truth.sum())
    return 2 * both / total if total else 1.0


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return |P and T| / |P or T| of two (H, W) bool masks; 1 where both are empty (Jaccard 1912).

    Raises:
        ValueError: If the shapes differ.
    """
    both = _intersection(prediction, truth)
    either = int(prediction.sum()) + int(truth.sum()) - both
    return both / either if either else 1.0


def hd95(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the 95% Hausdorff distance of two (H, W) bool masks, in pixels.

    The larger of the two directed distances, each the 95th percentile, linearly interpolated, of the distances from
    one surface's pixels to the nearest pixel of the other surface (Huttenlocher et al. 1993; Taha and Hanbury 2015 on
    the quantile). Tools that take one percentile of both directions' distances together give other, mostly smaller
    values. Pixels are taken as square: where an image was stretched, so is the distance.

    Returns:
        0 where both masks are empty. nan where one is: no distance is defined, and a mean must say how many it left
        out.

    Raises:
        ValueError: If the shapes differ.
    """
    _refuse_other_shape(prediction, truth)
    if not prediction.any() or not truth.any():
        return 0.0 if prediction.any() == truth.any() else float("nan")
    window = _bounding_box(prediction | truth)
    predicted, true = surface(prediction)[window], surface(truth)[window]
    return max(_directed(predicted, true), _directed(true, predicted))


def surface(mask: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: a mask's pixels with a 4-neighbour outside of it; what lies beyond the image is outside."""
    return mask & ~ndimage.binary_erosion(mask)


def _means(rows: Sequence[Overlap]) -> dict[str, float]:
    return {name: _mean([getattr(row, name) for row in rows]) for name in MEASURES}


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _directed(start: np.ndarray, end: np.ndarray) -> float:
    """Return the percentile of the distances from the pixels of one surface to the nearest of the other."""
    return float(np.percentile(ndimage.distance_transform_edt(~end)[start], QUANTILE))


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the window that holds a mask; distances between its pixels do not depend on what lies around."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _intersection(prediction: np.ndarray, truth: np.ndarray) -> int:
    _refuse_other_shape(prediction, truth)
    return int((prediction & truth).sum())


def _refuse_other_shape(prediction: np.ndarray, truth: np.ndarray) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(f"masks of {prediction.shape} and {truth.shape} cannot be compared")
