"""Finds what is wrong with a set as a whole: one picture twice, a patient in two parts, a class of one patient.

Every finding but those of classes names a file without which the rest would be right.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from os.path import commonpath
from pathlib import Path

from arl_lightning.data.tasks.case import Case, Finding, Listing
from arl_lightning.data.tasks.splits import crossing_patients
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


def listing_findings(listing: Listing, classes: bool = True, released: bool = True) -> list[Finding]:
    """Find what a listing tells without its pixels.

    Args:
        listing: The cases.
        classes: Whether labels matter: cases without one, or with one that is no class, and classes of one patient.
        released: Whether the parts that cases were released in matter.
    """
    crossing = list(_crossing(listing.cases)) if released else []
    if not classes or not listing.classes:
        return crossing
    known = ", ".join(listing.classes)
    strays = [
        Finding(case.path, "inconsistent", f"label {case.label} is none of {known}; correct it or leave it out")
        for case in listing.cases
        if case.label not in listing.classes
    ]
    return [*crossing, *strays, *small_classes(listing)]


def _crossing(cases: Sequence[Case]) -> Iterator[Finding]:
    crossing = crossing_patients(cases)
    for case in cases:
        parts = crossing.get(case.patient or "", set())
        stays = min(parts, key=lambda part: KEPT_FIRST[part], default=case.split)
        if case.split is not None and case.split != stays:
            reason = f"patient {case.patient} is in {stays} too, this in {case.split}; draw a split, or leave it out"
            yield Finding(case.path, "inconsistent", reason)


def small_classes(listing: Listing) -> list[Finding]:
    """Find classes that no split can put into two parts, for they have one patient, or none."""
    groups: dict[str | None, set[str]] = defaultdict(set)
    for case in listing.cases:
        groups[case.label].add(case.group)
    findings = []
    for name in listing.classes:
        if len(groups[name]) < 2:
            members = [case.path for case in listing.cases if case.label == name]
            of = f"{count(len(members), 'sample')} of one patient, clip or file" if members else "no sample"
            reason = f"class {name} has {of} and cannot be split; add others or leave the class out"
            findings.append(Finding(members[0] if members else _folder(listing), "inconsistent", reason))
    return findings


def _folder(listing: Listing) -> Path:
    return Path(commonpath([case.path.parent for case in listing.cases])) if listing.cases else Path()
