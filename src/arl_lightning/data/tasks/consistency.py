"""Finds what is wrong with a set as a whole: one picture twice, a patient in two parts, a class of one patient.

Every finding but those of classes, which are `whole`, names a file without which the rest would be right.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from os.path import commonpath
from pathlib import Path

from arl_lightning.data.tasks.case import Case, Finding, Listing
from arl_lightning.data.tasks.groups import joined_groups
from arl_lightning.data.tasks.splits import Split, crossing_clips, crossing_patients
from arl_lightning.data.wording import count

KEPT_FIRST = {"test": 0, "val": 1, "train": 2, None: 3}  # a test part stays comparable: others give way to it


def duplicate_findings(cases: Sequence[Case], pictures: Mapping[int, bytes], released: bool = True) -> list[Finding]:
    """Find the same picture under two labels, in two released parts, or merely twice; within one clip it may recur.

    Of a picture with two labels none can be trusted: all are named. Of one in two parts those outside the test part
    are, else outside the validation part.

    Args:
        cases: All cases.
        pictures: A hash of each readable case's pixels, by place; an empty one is never the same as another.
        released: Whether the parts matter.
    """
    places: dict[bytes, list[int]] = defaultdict(list)
    for place, picture in pictures.items():
        if picture:
            places[picture].append(place)
    groups = [sorted(group) for group in places.values() if len(group) > 1]
    return [
        finding for group in sorted(groups) for finding in _same_picture([cases[place] for place in group], released)
    ]


def _same_picture(cases: Sequence[Case], released: bool) -> Iterator[Finding]:
    first_of_clip = {case.video or case.key: case for case in reversed(cases)}
    cases = sorted(first_of_clip.values(), key=lambda case: case.key)
    if len(cases) < 2:
        return
    if len({case.label for case in cases if case.label is not None}) > 1:
        for case in cases:
            other = next(each for each in cases if each.label != case.label)
            reason = (
                f"the same picture as {other.key}, which is {other.label} where this is {case.label}; leave out both"
            )
            yield Finding(case.path, "inconsistent", reason)
        return
    stays = min(cases, key=lambda case: KEPT_FIRST[case.split])
    for case in cases:
        if released and case.split != stays.split:
            reason = f"the same picture as {stays.key}, which is in {stays.split} where this is in {case.split}"
            yield Finding(case.path, "inconsistent", f"{reason}; leave it out")
        elif case is not stays:
            yield Finding(case.path, "note", f"the same picture as {stays.key}")


def listing_findings(
    listing: Listing, classes: bool = True, released: bool = True, groups: Sequence[str] | None = None
) -> list[Finding]:
    """Find what a listing tells without its pixels.

    Args:
        listing: The cases.
        classes: Whether labels matter: cases without one, or with one that is no class, and classes of one patient.
        released: Whether the parts that cases were released in matter.
        groups: What must stay in one part, one for each case, as of `joined_groups`.
    """
    found = [*_clips_of_several(listing.cases), *(_crossing(listing.cases) if released else ())]
    if not classes or not listing.classes:
        return found
    known = ", ".join(listing.classes)
    strays = [
        Finding(case.path, "inconsistent", f"label {case.label} is none of {known}; correct it or leave it out")
        for case in listing.cases
        if case.label not in listing.classes
    ]
    return [*found, *strays, *small_classes(listing, groups)]


def _clips_of_several(cases: Sequence[Case]) -> Iterator[Finding]:
    """Find clips that are said to be of two patients; none of their frames can be trusted."""
    patients: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.video is not None and case.patient is not None:
            patients[case.video].add(case.patient)
    for case in cases:
        named = sorted(patients.get(case.video or "", ()))
        if len(named) > 1:
            reason = f"clip {case.video} is of the patients {' and '.join(named[:2])}; give each clip a name of its own"
            yield Finding(case.path, "inconsistent", f"{reason} and one patient, or leave it out")


def _crossing(cases: Sequence[Case]) -> Iterator[Finding]:
    patients, clips = crossing_patients(cases), crossing_clips(cases)
    for case in cases:
        for what, name, crossing in (("patient", case.patient, patients), ("clip", case.video, clips)):
            parts = crossing.get(name or "", set())
            stays = min(parts, key=lambda part: KEPT_FIRST[part], default=case.split)
            if case.split is not None and case.split != stays:
                reason = f"{what} {name} is in {stays} too, this in {case.split}; draw a split, or leave it out"
                yield Finding(case.path, "inconsistent", reason)
                break


def small_classes(listing: Listing, groups: Sequence[str] | None = None) -> list[Finding]:
    """Find classes that no split can put into two parts, for they have one group, or none."""
    groups = joined_groups(listing.cases) if groups is None else groups
    members: dict[str | None, list[str]] = defaultdict(list)
    for case, group in zip(listing.cases, groups, strict=True):
        members[case.label].append(group)
    findings = []
    for name in listing.classes:
        if len(set(members[name])) < 2:
            num = len(members[name])
            has = f"{count(num, 'sample')} of one patient, clip or picture" if num else "no sample"
            out = f"delete its {'rows' if listing.source and listing.source.is_file() else 'files'}, or " if num else ""
            reason = f"class {name} has {has} and cannot be split; add others, or leave the class out: {out}name those"
            reason += " to keep by --options.classes where the task has it"
            findings.append(Finding(listing.source or _folder(listing.cases), "inconsistent", reason, whole=True))
    return findings


def part_findings(cases: Sequence[Case], split: Split, classes: Sequence[str]) -> list[Finding]:
    """Find classes that a part lacks: nothing can be learnt of one in training, nor be said of one in another part."""
    findings = []
    for part, places in (("train", split.train), ("val", split.val), ("test", split.test)):
        there = {cases[place].label for place in places}
        for name in classes:
            if name in there:
                continue
            if part == "train":
                reason = f"class {name} has no training case; add some, draw another split, or leave the class out"
                findings.append(Finding(_folder(cases), "inconsistent", reason, whole=True))
            else:
                reason = f"class {name} has no case in {part}, whose metrics say nothing of it"
                findings.append(Finding(_folder(cases), "note", reason, whole=True))
    return findings


def _folder(cases: Sequence[Case]) -> Path:
    return Path(commonpath([case.path.parent for case in cases])) if cases else Path()
