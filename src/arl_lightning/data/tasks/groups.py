"""Finds which cases must stay in one part of a split: those of one patient, of one clip, or of one picture.

Whatever shares one of these with a member of a group belongs to it too, so that a clip whose frames name a patient only
in part, or a picture that two patients have, is never both trained and tested on.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence

from arl_lightning.data.tasks.case import Case


def joined_groups(cases: Sequence[Case], pictures: Mapping[int, bytes] | None = None) -> list[str]:
    """Return the group of each case: its own, or the first by name of all those that it is joined with.

    Args:
        cases: All cases.
        pictures: A hash of each case's pixels, by place; an empty one is the same as no other.
    """
    first_of = {case.group: case.group for case in cases}  # a group -> one of its joined ones that sorts before it
    owners: dict[Hashable, str] = {}
    for place, case in enumerate(cases):
        for tie in _ties(case, (pictures or {}).get(place, b"")):
            one, other = (_first(first_of, group) for group in (case.group, owners.setdefault(tie, case.group)))
            first_of[max(one, other)] = min(one, other)
    return [_first(first_of, case.group) for case in cases]


def _ties(case: Case, picture: bytes) -> Iterator[Hashable]:
    if case.video is not None:
        yield "video", case.video
    if picture:
        yield "picture", picture


def _first(first_of: dict[str, str], group: str) -> str:
    while first_of[group] != group:
        first_of[group] = first_of[first_of[group]]  # halves the way for the next who asks
        group = first_of[group]
    return group
