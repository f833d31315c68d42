"""Splits a task's cases by patient, stratified and seeded: hold-out, folds, and nested shares of the labels.

N cases, G groups (patients, else clips, else images; see `joined_groups`). A draw depends on the seed and the groups'
names alone, so that a case more or less moves few others. Wherever groups may be given, they name what must stay in one
part, one for each case; without, cases of one patient or of one clip do.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from arl_lightning.data.tasks.case import Case
from arl_lightning.data.tasks.groups import joined_groups
from arl_lightning.data.wording import count
from arl_lightning.errors import UserError

PARTS_LEFT = {"test": 3, "val": 2}  # that a draw has to leave a group for, itself included
HASH_LENGTH = 16  # hexadecimal digits that name a split


@dataclass(frozen=True)
class SplitOptions:
    """Which cases are trained on, chosen by, and reported on.

    Args:
        source: released takes the split that the set or the table states, drawn makes one, auto takes the released one
            where every case has one.
        test: Size of a drawn test part: a number of cases from 1 on, or a share below 1.
        val: Size of the validation part where the released split has none, or of a drawn one, likewise.
        seed: Of the draw.
    """

    source: Literal["auto", "released", "drawn"] = "auto"
    test: float = 0.2
    val: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, size in (("test", self.test), ("val", self.val)):
            if not (math.isfinite(size) and size > 0) or (size >= 1 and size != int(size)):
                raise UserError(f"split.{name} {size:g}: must be a number of cases, or a share between 0 and 1")


@dataclass(frozen=True)
class Split:
    """Places of cases in their list.

    Attributes:
        train, val, test: Ascending places; no group has cases in two of them.
    """

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def split_cases(cases: Sequence[Case], options: SplitOptions, groups: Sequence[str] | None = None) -> Split:
    """Split by the set's own parts, or by a stratified draw of whole groups.

    Raises:
        UserError: If the released split is incomplete though asked for, or a part would be empty.
    """
    groups = joined_groups(cases) if groups is None else groups
    if options.source == "released" or (options.source == "auto" and all(case.split for case in cases)):
        return _released(cases, groups, options)
    everything = range(len(cases))
    test = _draw(cases, groups, everything, options.test, options.seed, "test")
    rest = _without(everything, test)
    val = _draw(cases, groups, rest, options.val, options.seed, "val", of=len(cases))
    return _checked(cases, Split(_without(rest, val), val, test))


def split_folds(
    cases: Sequence[Case], num_folds: int, options: SplitOptions, groups: Sequence[str] | None = None
) -> list[Split]:
    """Deal groups to folds, each the test part once; every case is tested on exactly once.

    Released parts are not regarded. A validation part is drawn from the rest of each.

    Raises:
        UserError: If there are fewer than two folds, or a class has fewer groups than there are folds.
    """
    if num_folds < 2:
        raise UserError(f"folds {num_folds}: at least 2 are needed, or leave it out")
    groups = joined_groups(cases) if groups is None else groups
    folds: list[list[int]] = [[] for _ in range(num_folds)]
    for stratum, members in _strata(cases, groups, range(len(cases)), options.seed, "fold").items():
        if len(members) < num_folds:
            raise UserError(
                f"folds {num_folds}: class '{stratum}' has only {count(len(members), 'patient')} or image; use fewer"
            )
        sizes = [0] * num_folds  # cases of this stratum
        for group in sorted(members, key=len, reverse=True):  # stable: equal sizes stay in the drawn order
            smallest = min(range(num_folds), key=lambda fold: (sizes[fold], len(folds[fold])))
            folds[smallest].extend(group)
            sizes[smallest] += len(group)
    splits = []
    for test in folds:
        rest = _without(range(len(cases)), test)
        val = _draw(cases, groups, rest, options.val, options.seed, "val", of=len(cases))
        splits.append(_checked(cases, Split(_without(rest, val), val, tuple(sorted(test)))))
    return splits


def label_share(
    cases: Sequence[Case], train: Sequence[int], fraction: float, seed: int, groups: Sequence[str] | None = None
) -> tuple[int, ...]:
    """Return a stratified share of the training cases, by whole groups; a smaller share lies within a larger one.

    Every class keeps at least one group.

    Raises:
        UserError: If the fraction is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction {fraction:g}: must be above 0 and at most 1")
    groups = joined_groups(cases) if groups is None else groups
    kept: list[int] = []
    for members in _strata(cases, groups, train, seed, "share").values():
        wanted = fraction * sum(map(len, members))
        taken = 0
        for group in members:
            if taken and taken + len(group) / 2 > wanted:
                break
            kept += group
            taken += len(group)
    return tuple(sorted(kept))


def split_hash(cases: Sequence[Case], split: Split) -> str:
    """Name a split by its contents: two runs are compared in pairs only where these agree.

    Validation and training parts do not count: methods may use them as they like.
    """
    lines = sorted(f"{cases[place].key}\t{cases[place].label}" for place in split.test)
    return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()[:HASH_LENGTH]


def crossing_patients(cases: Sequence[Case]) -> dict[str, set[str]]:
    """Return the patients that the released split puts into two parts, and these parts."""
    return _crossing((case.patient, case.split) for case in cases)


def crossing_clips(cases: Sequence[Case]) -> dict[str, set[str]]:
    """Return the clips that the released split puts into two parts, and these parts."""
    return _crossing((case.video, case.split) for case in cases)


def _crossing(pairs: Iterable[tuple[str | None, str | None]]) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = defaultdict(set)
    for name, part in pairs:
        if name is not None and part is not None:
            parts[name].add(part)
    return {name: found for name, found in sorted(parts.items()) if len(found) > 1}


def _released(cases: Sequence[Case], groups: Sequence[str], options: SplitOptions) -> Split:
    lacking = [case.key for case in cases if case.split is None]
    if lacking:
        raise UserError(f"split.source released: {lacking[0]} ({len(lacking)} such) is in no part; use drawn")
    train, val, test = (
        tuple(place for place, case in enumerate(cases) if case.split == name) for name in ("train", "val", "test")
    )
    if not val:
        val = _draw(cases, groups, train, options.val, options.seed, "val", of=len(train))
        train = _without(train, val)
    return _checked(cases, Split(train, val, test))


def _draw(
    cases: Sequence[Case],
    groups: Sequence[str],
    places: Iterable[int],
    size: float,
    seed: int,
    part: str,
    of: int | None = None,
) -> tuple[int, ...]:
    """Draw whole groups, every stratum in proportion.

    Args:
        cases: All cases.
        groups: Of each.
        places: Those to draw from.
        size: A number of cases, or a share.
        seed: Of the draw.
        part: Its name, which makes draws of one seed independent.
        of: What a share is a share of; all places by default.
    """
    places = list(places)
    wanted = int(size) if size >= 1 else round(size * (of or len(places)))
    if wanted >= len(places):
        raise UserError(f"split.{part} {size:g}: {count(len(places), 'case')} cannot give {wanted} and leave some")
    strata = _strata(cases, groups, places, seed, part)
    quotas = _quotas({name: sum(map(len, members)) for name, members in strata.items()}, wanted)
    drawn: list[int] = []
    for name, members in strata.items():
        taken = 0
        for group in members:
            if taken + len(group) <= quotas[name]:  # a group too large is left for the other parts
                drawn += group
                taken += len(group)
        if not taken and len(members) >= PARTS_LEFT[part]:  # all are too large: no part must lack the class
            smallest: list[int] = min(members, key=len)
            drawn += smallest
    return tuple(sorted(drawn))


def _strata(
    cases: Sequence[Case], groups: Sequence[str], places: Iterable[int], seed: int, part: str
) -> dict[str, list[list[int]]]:
    """Return class -> its groups' places, in the drawn order; a group counts for its most frequent class."""
    members: dict[str, list[int]] = defaultdict(list)
    for place in places:
        members[groups[place]].append(place)
    strata: dict[str, list[list[int]]] = defaultdict(list)
    for group in sorted(members, key=lambda name: _rank(seed, part, name)):
        labels = Counter(str(cases[place].label) for place in members[group])
        strata[max(sorted(labels), key=lambda label: labels[label])].append(members[group])
    return dict(sorted(strata.items()))


def _quotas(sizes: dict[str, int], wanted: int) -> dict[str, int]:
    """Share out a number in proportion to sizes, the largest remainders first."""
    total = sum(sizes.values())
    exact = {name: wanted * size / total for name, size in sizes.items()}
    quotas = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(sizes, key=lambda name: (quotas[name] - exact[name], name))
    for name in by_remainder[: wanted - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def _rank(seed: int, part: str, group: str) -> bytes:
    words = f"{seed}/{part}/{group}".encode(errors="surrogatepass")  # a file's name need not be valid Unicode
    return hashlib.blake2b(words, digest_size=8).digest()


def _without(places: Iterable[int], taken: Iterable[int]) -> tuple[int, ...]:
    gone = set(taken)
    return tuple(sorted(place for place in places if place not in gone))


def _checked(cases: Sequence[Case], split: Split) -> Split:
    for name in ("train", "val", "test"):
        if not getattr(split, name):
            raise UserError(f"split: no case is left for {name} among {len(cases)}; change split.test and split.val")
    return split
