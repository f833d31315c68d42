"""Takes turns among a few open iterators, and says where that stands after any number of items without doing it."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def interleave(opened: Iterable[Iterator[T]], following: Iterator[Iterator[T]]) -> Iterator[T]:
    """Yield one item of each opened iterator in turn; the next of the following takes the place of one that ends."""
    queue = deque(opened)
    while queue:
        current = queue.popleft()
        try:
            item = next(current)
        except StopIteration:
            queue.extendleft(itertools.islice(following, 1))
            continue
        queue.append(current)
        yield item


def open_after(sizes: Sequence[int], open_shards: int, num: int) -> tuple[list[tuple[int, int]], int]:
    """Return where `interleave` stands after so many items, without counting them one by one.

    Args:
        sizes: Items of each iterator, at least one.
        open_shards: Iterators that are open at first.
        num: Items taken.

    Returns:
        The open iterators' indices with the items taken of each, in turn, and the first index that was never opened.
    """
    opened = [(index, 0) for index in range(min(open_shards, len(sizes)))]
    following = len(opened)
    while opened:
        shortest = min(sizes[index] - used for index, used in opened)
        if num < shortest * len(opened):
            rounds, more = divmod(num, len(opened))
            turned = [(index, used + rounds + (turn < more)) for turn, (index, used) in enumerate(opened)]
            return turned[more:] + turned[:more], following
        num -= shortest * len(opened)
        still_open = []
        for index, used in opened:
            if used + shortest < sizes[index]:
                still_open.append((index, used + shortest))
            elif following < len(sizes):
                still_open.append((following, 0))
                following += 1
        opened = still_open
    return [], following


def consumed(sizes: Sequence[int], open_shards: int, num: int) -> list[int]:
    """Return how many items `interleave` has taken of each iterator after `num` in all."""
    opened, following = open_after(sizes, open_shards, num)
    taken = dict(opened)
    return [taken.get(index, size) if index < following else 0 for index, size in enumerate(sizes)]
