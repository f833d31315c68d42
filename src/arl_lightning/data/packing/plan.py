"""Decides which samples are packed, into which split, how often, and in what order.

N samples, R places in shards. Everything is a pure function of the index and the options: how many processes read the
images, and how often they were killed, does not show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from arl_lightning.data.packing.duplicates import clusters, lookalikes, near_duplicates
from arl_lightning.errors import UserError

# The generator's streams: one use of the seed from another.
SPLIT, COPIES, ORDER = range(3)


@dataclass(frozen=True)
class Options:
    """How a corpus is made of what was read.

    Attributes:
        seed: Of the shuffle, the splits and the weights.
        splits: Split -> share of the patients, adding up to 1; empty: no splits.
        weights: Anatomy or source -> how often its images are packed; 0.5 takes half of them, 2 stores each twice.
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
    if splits and (min(splits.values()) <= 0 or abs(sum(splits.values()) - 1) > 1e-6):
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
    pairs = near_duplicates(index["coarse"], index["detail"], index["video"], options.duplicate_distance)
    pairs = _with_frozen_frames(index, pairs)
    dropped = np.zeros(index.size, bool)
    alike = clusters(index.size, pairs)
    if options.drop_duplicates:
        dropped = _all_but_one(index["key"], alike, leaked > 0)
    kept = (leaked == 0) & ~dropped
    names = _split_names(sources, options)
    split = _splits(index, alike, names, sources, options)
    weight = weights_of(index, anatomies, sources, options.weights)
    orders, copies = {}, {}
    for number, name in enumerate(names):
        members = np.flatnonzero(kept & (split == number))
        # By key: the order of a shuffle whose seed is known must not lead back to that of an archive's paths.
        members = members[np.argsort(index["key"][members])]
        # Held-out images are looked at as they are: only the first split, the one that is trained on, is weighted.
        repeats = repeats_of(index["key"][members], weight[members], options.seed) if number == 0 else None
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
    for identity in ("key", "video", "patient"):
        known = held_out[identity][held_out[identity] > 0]
        leaked[np.isin(index[identity], known) & (leaked == 0)] = LEAKED_IMAGE if identity == "key" else LEAKED_PATIENT
    return leaked, lookalike


def _with_frozen_frames(index: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Add frames of one clip whose stored bytes are equal; frames that are only alike are what clips are made of."""
    moving = np.flatnonzero(index["video"] > 0)
    frames = np.stack([index["video"][moving], index["sha"][moving]], axis=1)
    _, first, kind = np.unique(frames, axis=0, return_index=True, return_inverse=True)
    left, right = moving[first[kind.ravel()]], moving
    frozen = np.stack([left, right, np.zeros_like(left)], axis=1)[left != right]
    return np.concatenate([pairs, frozen.astype(np.int64)])


def _all_but_one(key: np.ndarray, alike: np.ndarray, leaked: np.ndarray) -> np.ndarray:
    """Return True for all lookalikes but that of the smallest key, in whatever order they were listed."""
    places = np.flatnonzero(~leaked)
    places = places[np.lexsort((key[places], alike[places]))]
    _, first = np.unique(alike[places], return_index=True)
    stays = np.zeros(alike.size, bool)
    stays[places[first]] = True
    return ~stays & ~leaked


def _split_names(sources: Sequence[PlannedSource], options: Options) -> list[str]:
    names = dict.fromkeys(name for shares in (*(each.splits for each in sources), options.splits) for name in shares)
    return list(names) or [""]


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


def weights_of(
    index: np.ndarray, anatomies: Sequence[str], sources: Sequence[PlannedSource], weights: Mapping[str, float]
) -> np.ndarray:
    """Return each image's weight: its source's own, times those of its source's name and its anatomy.

    Raises:
        UserError: If a weight names neither an anatomy nor a source.
    """
    known = [*anatomies, *(source.name for source in sources)]
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise UserError(f"weights: '{unknown[0]}' is neither an anatomy nor a source here; choose from {known}")
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
