"""Decides which samples are packed, into which split, how often, and in what order.

N samples, R places in shards. Everything is a pure function of the index and the options: how many processes read the
images, and how often they were killed, does not show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from arl_lightning.data.packing.duplicates import clusters, lookalikes, near_duplicates, representatives
from arl_lightning.errors import UserError

# The generator's streams: one use of the seed from another.
SPLIT, COPIES, ORDER = range(3)

TRAIN = "train"  # the split that weights apply to


@dataclass(frozen=True)
class Options:
    """How a corpus is made of what was read.

    Attributes:
        seed: Of the shuffle, the splits and the weights.
        splits: Split -> share of the patients, adding up to 1; empty: no splits.
        weights: Anatomy or source -> how often its images are packed; 0.5 takes half of them, 2 stores each twice. With
            splits, in `train` alone.
        drop_duplicates: Leave out all but one of images that look alike.
        duplicate_distance: Most bits of 256 in which fine perceptual hashes of duplicates differ.
    """

    seed: int = 0
    splits: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    drop_duplicates: bool = False
    duplicate_distance: int = 24

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed {self.seed}: must be at least 0")
        check_splits(self.splits, "splits")
        wrong = {name: weight for name, weight in self.weights.items() if not 0 <= weight <= 100}
        if wrong:
            raise UserError(f"weights {wrong}: must be 0 to 100")
        if not 0 <= self.duplicate_distance <= 128:
            raise UserError(f"duplicate_distance {self.duplicate_distance}: must be 0 to 128 bits")


def check_splits(splits: Mapping[str, float], key: str) -> None:
    """Raise a UserError unless the shares of splits add up to 1."""
    shares = list(splits.values())
    if splits and not (all(0 < share <= 1 for share in shares) and abs(sum(shares) - 1) <= 1e-6):
        raise UserError(f"{key} {dict(splits)}: shares must be above 0 and add up to 1")
    for name in splits:
        if not name.isidentifier():
            raise UserError(f"{key}: '{name}' names a folder; use letters, digits and _")


@dataclass(frozen=True)
class PlannedSource:
    """What a plan must know of a source: its name, its weight, and its own splits, empty for those of the corpus."""

    name: str
    weight: float = 1.0
    splits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is packed.

    Attributes:
        orders: Split ("" without splits) -> (R,) places in the index, in packing order; a repeated image stands there
            repeatedly.
        copies: Split -> (R,) how many times the image stands before this place in the order of its copies.
        duplicates: (M, 3) places of two images that look alike, and their distance.
        dropped: (N,) bool, True where an image was left out as a duplicate.
        leaked: (N,) uint8: 0, or why an image is held out of the corpus: `LEAKED_...`.
        lookalike: (N,) int64: the held-out image that it looks like, -1 where none.
    """

    orders: dict[str, np.ndarray]
    copies: dict[str, np.ndarray]
    duplicates: np.ndarray
    dropped: np.ndarray
    leaked: np.ndarray
    lookalike: np.ndarray


LEAKED_IMAGE, LEAKED_PATIENT = 1, 2


def make_plan(
    index: np.ndarray,
    held_out: np.ndarray,
    anatomies: Sequence[str],
    sources: Sequence[PlannedSource],
    options: Options,
) -> Plan:
    """Plan a corpus.

    Args:
        index: (N,) of `spool.INDEX`.
        held_out: (H,) of `spool.INDEX`, the downstream images that must not be learnt from.
        anatomies: Names by the index' numbers.
        sources: Likewise.
        options: How the corpus is made.

    Raises:
        UserError: If nothing is left to pack, or a weight names neither an anatomy nor a source.
        ValueError: If two samples of a source have one name.
    """
    if np.unique(index["key"]).size < index.size:
        raise ValueError("two samples have the same source and name; a reader must give every sample its own")
    leaked, lookalike = _leaks(index, held_out, options.duplicate_distance)
    pairs = _lookalike_pairs(index, options.duplicate_distance)
    dropped = np.zeros(index.size, bool)
    if options.drop_duplicates:
        staying = (leaked[pairs[:, 0]] == 0) & (leaked[pairs[:, 1]] == 0)
        dropped = _standing(index, pairs[staying], options) != np.arange(index.size)
    names = _split_names(sources, options)
    split = _splits(index, _standing(index, pairs, options), names, sources, options)
    weight = weights_of(index, anatomies, sources, options.weights)
    _check_weighted_split(names, weight)
    orders, copies = {}, {}
    for number, name in enumerate(names):
        members = np.flatnonzero((leaked == 0) & ~dropped & (split == number))
        if name and not members.size:
            raise UserError(f"split '{name}': gets no image, there are too few patients; change its share or the seed")
        # By key: the order of a shuffle whose seed is known must not lead back to that of an archive's paths.
        members = members[np.argsort(index["key"][members])]
        # Held-out images are looked at as they are: only what is trained on is weighted.
        repeats = repeats_of(index["key"][members], weight[members], options.seed) if name in ("", TRAIN) else None
        order, copy = shuffle(index, members, repeats, np.random.default_rng((options.seed, ORDER, number)))
        if order.size:
            orders[name], copies[name] = order, copy
    if not orders:
        raise UserError("no image is left to pack: all are held out, duplicates or of weight 0")
    return Plan(orders, copies, pairs, dropped, leaked, lookalike)


def _leaks(index: np.ndarray, held_out: np.ndarray, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Return why each image must be left out, and the place of the held-out image that it looks like."""
    lookalike = lookalikes(index["coarse"], index["detail"], held_out["coarse"], held_out["detail"], max_distance)
    leaked = np.zeros(index.size, np.uint8)
    leaked[lookalike >= 0] = LEAKED_IMAGE
    leaked[np.isin(index["key"], held_out["key"])] = LEAKED_IMAGE
    for identity in ("video", "patient"):
        # Theirs that are held out, and of those whose image looks like a held-out one.
        known = np.concatenate([held_out[identity], index[identity][leaked == LEAKED_IMAGE]])
        leaked[np.isin(index[identity], known[known > 0]) & (leaked == 0)] = LEAKED_PATIENT
    return leaked, lookalike


def _lookalike_pairs(index: np.ndarray, max_distance: int) -> np.ndarray:
    """Return (M, 3) places of images that look alike, or are frames of a clip with equal bytes, and their distance."""
    by_key = np.argsort(index["key"])  # which of its kind an image is compared with must not depend on the listing
    coarse, video = index["coarse"][by_key], index["video"][by_key]
    pairs = near_duplicates(coarse, index["detail"][by_key], video, max_distance)
    pairs = np.unique(np.concatenate([pairs, _equal_bytes(coarse, index["sha"][by_key])]), axis=0)
    pairs[:, :2] = by_key[pairs[:, :2]]
    return pairs


def _equal_bytes(coarse: np.ndarray, sha: np.ndarray) -> np.ndarray:
    """Return (M, 3) pairs of images with equal bytes, each with the first, frozen frames of one clip among them."""
    shown = np.flatnonzero(coarse)
    _, first, kind = np.unique(sha[shown], return_index=True, return_inverse=True)
    left, right = shown[first[kind]], shown
    again = left != right
    return np.stack([left[again], right[again], np.zeros_like(left[again])], axis=1)


def _standing(index: np.ndarray, pairs: np.ndarray, options: Options) -> np.ndarray:
    return representatives(index["key"], index["detail"], pairs, options.duplicate_distance)


def _split_names(sources: Sequence[PlannedSource], options: Options) -> list[str]:
    names = dict.fromkeys(name for shares in (*(each.splits for each in sources), options.splits) for name in shares)
    return sorted(names, key=lambda name: (name != TRAIN, name)) or [""]


def _check_weighted_split(names: list[str], weight: np.ndarray) -> None:
    if names != [""] and TRAIN not in names and (weight != 1).any():
        raise UserError(f"weights: apply to the split '{TRAIN}', and there are only {', '.join(names)}; rename one")


def _splits(
    index: np.ndarray, alike: np.ndarray, names: list[str], sources: Sequence[PlannedSource], options: Options
) -> np.ndarray:
    """Return each image's split: one for all of a patient, of a clip where no patient is known, of lookalikes."""
    split = np.zeros(index.size, np.int64)
    group = np.where(index["patient"] > 0, index["patient"], np.where(index["video"] > 0, index["video"], index["key"]))
    draw = _uniform(_joined(group, alike), options.seed, SPLIT)
    for number, source in enumerate(sources):
        shares = source.splits or options.splits or {names[0]: 1.0}
        bounds = np.cumsum([shares.get(name, 0.0) for name in names])
        members = index["source"] == number
        split[members] = np.minimum(np.searchsorted(bounds, draw[members], side="right"), len(names) - 1)
    return split


def _joined(group: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """Return for each image the smallest group among those that lookalikes join it to."""
    groups, member = np.unique(group, return_inverse=True)
    pairs = np.stack([member, member[alike]], axis=1)
    return groups[clusters(groups.size, np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0))][member]


def check_weights(weights: Mapping[str, float], anatomies: Sequence[str], sources: Sequence[str]) -> None:
    """Raise a UserError unless each weight names an anatomy or a source."""
    for name in weights:
        if name in anatomies and name in sources:
            raise UserError(f"weights: '{name}' is an anatomy and a source; give the source another name")
        if name not in anatomies and name not in sources:
            known = ", ".join([*anatomies, *sources])
            raise UserError(f"weights: '{name}' is neither an anatomy nor a source here; choose from {known}")


def weights_of(
    index: np.ndarray, anatomies: Sequence[str], sources: Sequence[PlannedSource], weights: Mapping[str, float]
) -> np.ndarray:
    """Return each image's weight: its source's own, times those of its source's name and its anatomy.

    Raises:
        UserError: If a weight names neither an anatomy nor a source.
    """
    check_weights(weights, anatomies, [source.name for source in sources])
    by_anatomy = np.array([weights.get(name, 1.0) for name in anatomies])
    by_source = np.array([source.weight * weights.get(source.name, 1.0) for source in sources])
    return by_source[index["source"]] * by_anatomy[index["anatomy"]]


def repeats_of(key: np.ndarray, weight: np.ndarray, seed: int) -> np.ndarray:
    """Return how often each image is packed: its weight, rounded up or down by a draw that belongs to the image."""
    return np.floor(weight + _uniform(key, seed, COPIES)).astype(np.int64)


def _uniform(values: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """Return a number in [0, 1) for each uint64, the same wherever the value stands (splitmix64's finaliser)."""
    mixed = values + np.uint64(np.random.SeedSequence((seed, stream)).generate_state(1, np.uint64)[0])
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def shuffle(
    index: np.ndarray, members: np.ndarray, repeats: np.ndarray | None, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return places in packing order, and which copy of its image each is.

    The m frames of a clip, or copies of an image, are drawn one from each of m equal stretches of the corpus, in random
    order, from the first half of the stretch: two of them are never closer than half a stretch.
    """
    repeats = np.ones(members.size, np.int64) if repeats is None else repeats
    places = np.repeat(members, repeats)
    starts = np.cumsum(repeats) - repeats
    copies = np.arange(places.size) - np.repeat(starts, repeats)
    group = np.where(index["video"] > 0, index["video"], index["key"])[places]
    _, group, size = np.unique(group, return_inverse=True, return_counts=True)
    by_group = np.lexsort((generator.random(places.size), group))  # random within a group
    nth = np.empty(places.size, np.int64)
    nth[by_group] = np.arange(places.size) - np.repeat(np.cumsum(size) - size, size)
    phase = generator.random(size.size)[group]
    position = (phase + (nth + 0.5 * generator.random(places.size)) / size[group]) % 1.0
    order = np.argsort(position, kind="stable")
    return places[order], copies[order]
