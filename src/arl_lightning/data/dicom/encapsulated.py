"""Finds the frames of encapsulated pixel data (PS3.5 A.4), once for an object."""

import os
import struct
from bisect import bisect_left
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from arl_lightning.data.media import UnreadableError

ITEM, DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
END_OF_IMAGE = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000
PADDED_END = 10  # bytes in which it stands: padding may follow


class Fragment(NamedTuple):
    """Where an item's bytes begin in the file, and how many they are."""

    start: int
    length: int


def find_frames(file: BinaryIO, start: int, num_frames: int) -> list[list[Fragment]]:
    """Return the fragments of each frame.

    Args:
        file: Holds the pixel data.
        start: Where its first item begins, the table of offsets.
        num_frames: How many frames the header states; there may be more.

    Raises:
        UnreadableError: If the file ends before the last fragment, there are fewer frames than stated, or frames of
            several fragments cannot be told apart.
    """
    table, *fragments = _fragments(file, start)
    if len(fragments) < num_frames:
        raise UnreadableError("fewer frames than stated")
    if len(fragments) == num_frames:
        return [[fragment] for fragment in fragments]
    if num_frames == 1 and not table.length:
        return [fragments]
    ends = _ends_by_table(file, table, fragments) or _ends_by_mark(file, fragments)
    if len(ends) < num_frames:
        raise UnreadableError("frames that cannot be told apart")
    starts = [0, *ends]
    return [fragments[begin:end] for begin, end in zip(starts, ends[:num_frames], strict=False)]


def read_fragments(file: BinaryIO, fragments: list[Fragment]) -> bytes:
    """Return a frame's bytes."""
    parts = []
    for fragment in fragments:
        file.seek(fragment.start)
        parts.append(file.read(fragment.length))
    return b"".join(parts)


def _fragments(file: BinaryIO, start: int) -> list[Fragment]:
    """Walk through all items, the table of offsets included."""
    size = file.seek(0, os.SEEK_END)
    position = start
    found: list[Fragment] = []
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            raise UnreadableError("truncated")
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) == DELIMITER and found:
            return found
        if (group, element) != ITEM:
            raise UnreadableError("damaged pixel data")
        if position + 8 + length > size:
            raise UnreadableError("truncated")
        found.append(Fragment(position + 8, length))
        position += 8 + length


def _ends_by_table(file: BinaryIO, table: Fragment, fragments: list[Fragment]) -> list[int]:
    """Return how many fragments end with each frame, by the basic offset table; none where the table is wrong."""
    content = read_fragments(file, [table])
    offsets = struct.unpack(f"<{len(content) // 4}L", content[: len(content) // 4 * 4])
    places = [fragment.start - fragments[0].start for fragment in fragments]
    ends = [bisect_left(places, offset) for offset in offsets]
    exact = all(end < len(places) and places[end] == offset for end, offset in zip(ends, offsets, strict=True))
    rising = all(before < after for before, after in pairwise(ends))
    return [*ends[1:], len(fragments)] if ends and ends[0] == 0 and exact and rising else []


def _ends_by_mark(file: BinaryIO, fragments: list[Fragment]) -> list[int]:
    """Return the same by the marks at the ends of images."""
    ends = []
    for number, (start, length) in enumerate(fragments, start=1):
        tail = min(length, PADDED_END)
        if END_OF_IMAGE in read_fragments(file, [Fragment(start + length - tail, tail)]):
            ends.append(number)
    return ends
