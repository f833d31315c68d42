"""Finds images that look alike, by perceptual hashes: the signs of an image's low DCT frequencies about their median.

N images, each with a coarse hash of 64 bits (8 x 8 frequencies) and a fine one of 256 (16 x 16). Candidates are sought
by the coarse hash and decided by the fine one: sectors of one geometry have like coarse hashes whoever the patient is.
Measured: scaled copies of 12 BUSI images are 0 to 2 bits apart in both; of BUSI's own near-duplicates (coarse distance
up to 4) nine in ten are within 39 fine bits; the nearest of 7,140 pairs of CAMUS frames of unlike clips are 42 apart.
"""

from collections.abc import Iterator

import cv2
import numpy as np

COARSE_BITS = 4  # most bits in which the coarse hashes of a candidate pair differ
BLANK = 2.0  # grey levels of standard deviation of an image without content
DETAIL = ("<u8", (4,))  # a fine hash
BRUTE_FORCE = 4096  # up to this many hashes all pairs are compared
BLOCK = 512
BAND = 16  # bits of a coarse hash that must agree for a pair to be compared
NUM_TABLES = 16  # four shuffles of the bits, four bands in each
MAX_BUCKET = 256  # hashes in one bucket that a hash is compared with
PER_CLIP = 2  # frames of one clip in one bucket


def perceptual_hashes(image: np.ndarray) -> tuple[int, tuple[int, ...]]:
    """Return the coarse hash and the fine one, of an image (H, W) or (H, W, 3); zeros of one without content.

    A blank frame looks like every other one: it must not tie patients together. A picture's hash is never 0, as half of
    its bits are set.
    """
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < BLANK:
        return 0, (0, 0, 0, 0)
    low = cv2.dct(small)[:16, :16]
    (coarse,) = _signs(low[:8, :8])
    return coarse, _signs(low)


def _signs(frequencies: np.ndarray) -> tuple[int, ...]:
    bits = np.packbits(frequencies > np.median(frequencies))
    return tuple(bits.view(">u8").tolist())


def near_duplicates(coarse: np.ndarray, detail: np.ndarray, video: np.ndarray, max_distance: int) -> np.ndarray:
    """Return pairs of images that look alike and are not frames of one clip.

    Images of equal coarse hashes are each compared with the first of their kind. Of unequal ones all pairs are found up
    to 4,096 kinds; above, all pairs up to 3 coarse bits apart and about 99 % of those 4 apart, save in buckets of more
    than 256 hashes, which pictures without content fill.

    Args:
        coarse: (N,) uint64.
        detail: (N, 4) uint64.
        video: (N,) uint64 that tells clips apart, 0 for a still.
        max_distance: Most bits in which fine hashes may differ.

    Returns:
        (M, 3) int64: the earlier place, the later one, their fine distance; sorted, each pair once.
    """
    kinds, first, kind = np.unique(coarse, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[kind] != np.arange(kind.size))
    found = [_decide(first[kind[again]], again, detail, video, max_distance)]
    # A kind stands for all images of its hash: nearly equal kinds are compared, not all of their members.
    comparing = _all_pairs(kinds) if kinds.size <= BRUTE_FORCE else _banded_pairs(kinds, video[first])
    found += [_decide(first[pairs[:, 0]], first[pairs[:, 1]], detail, video, max_distance) for pairs in comparing]
    return np.unique(np.concatenate(found), axis=0)


def _decide(one: np.ndarray, other: np.ndarray, detail: np.ndarray, video: np.ndarray, max_distance: int) -> np.ndarray:
    """Return (M, 3) int64: those of P pairs that look alike and are not of one clip, with their distance."""
    left, right = np.minimum(one, other), np.maximum(one, other)
    apart = (video[left] == 0) | (video[left] != video[right])
    left, right = left[apart], right[apart]
    distance = fine_distance(detail[left], detail[right])
    alike = (distance <= max_distance) & detail[left].any(axis=-1)  # and not blank
    return np.stack([left[alike], right[alike], distance[alike]], axis=1).astype(np.int64)


def fine_distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the (P,) numbers of bits in which (P, 4) fine hashes differ."""
    return np.bitwise_count(left ^ right).sum(axis=-1, dtype=np.int64)


def _all_pairs(kinds: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, kinds.size, BLOCK):
        near = np.bitwise_count(kinds[start : start + BLOCK, None] ^ kinds[None]) <= COARSE_BITS  # (BLOCK, N)
        yield np.argwhere(np.triu(near, start + 1)) + np.array([start, 0])


def _banded_pairs(kinds: np.ndarray, video: np.ndarray) -> Iterator[np.ndarray]:
    shuffles = np.random.default_rng(0)
    for table in range(NUM_TABLES):
        if table % 4 == 0:
            shuffled = _shuffle_bits(kinds, shuffles.permutation(64)) if table else kinds
        band = (shuffled >> np.uint64(BAND * (table % 4))) & np.uint64(2**BAND - 1)
        yield from _bucket_pairs(band, kinds, video)


def _shuffle_bits(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    shuffled = np.zeros_like(values)
    for target, origin in enumerate(order):
        shuffled |= ((values >> np.uint64(origin)) & np.uint64(1)) << np.uint64(target)
    return shuffled


def _bucket_pairs(band: np.ndarray, kinds: np.ndarray, video: np.ndarray) -> Iterator[np.ndarray]:
    """Compare each hash with those that follow it in its bucket."""
    order = np.lexsort((video, band))
    order = order[_few_of_a_clip(band[order], video[order])]
    buckets, hashes = band[order], kinds[order]
    left = np.arange(order.size)
    for step in range(1, MAX_BUCKET + 1):
        left = left[: np.searchsorted(left, order.size - step)]
        left = left[buckets[left] == buckets[left + step]]  # a bucket that has ended has no later pairs either
        if not left.size:
            return
        near = left[np.bitwise_count(hashes[left] ^ hashes[left + step]) <= COARSE_BITS]
        yield np.stack([order[near], order[near + step]], axis=1)


def _few_of_a_clip(band: np.ndarray, video: np.ndarray) -> np.ndarray:
    """Return a mask of the first `PER_CLIP` entries of each run of one clip in one bucket; stills all stay."""
    again = np.zeros(band.size, bool)
    step = PER_CLIP
    again[step:] = (band[step:] == band[:-step]) & (video[step:] == video[:-step])
    return ~again | (video == 0)


def lookalikes(
    coarse: np.ndarray, detail: np.ndarray, others: np.ndarray, other_detail: np.ndarray, max_distance: int
) -> np.ndarray:
    """Return which images look like any of others; every pair is compared.

    Args:
        coarse: (N,) uint64.
        detail: (N, 4) uint64.
        others: (M,) uint64.
        other_detail: (M, 4) uint64.
        max_distance: Most bits in which fine hashes may differ.

    Returns:
        (N,) int64: the place among the others of the first that looks like it, -1 where there is none.
    """
    found = np.full(coarse.size, -1, np.int64)
    for place, other in enumerate(others):
        if not other:  # a blank one
            continue
        near = np.flatnonzero(np.bitwise_count(coarse ^ other) <= COARSE_BITS)
        near = near[(fine_distance(detail[near], other_detail[place]) <= max_distance) & (found[near] < 0)]
        found[near] = place
    return found


def representatives(key: np.ndarray, detail: np.ndarray, pairs: np.ndarray, max_distance: int) -> np.ndarray:
    """Return (N,) int64: for each image the one that stands for it, itself where it stands for itself.

    By ascending keys an image is stood for by one that it looks like, or by that one's own representative if it looks
    like that too. So a chain of pictures, each like the next, does not become one.

    Args:
        key: (N,) uint64.
        detail: (N, 4) uint64.
        pairs: (M, 3) of images that look alike.
        max_distance: Most bits in which the fine hashes of an image and its representative differ.
    """
    standing = np.arange(key.size)
    swapped = key[pairs[:, 0]] > key[pairs[:, 1]]
    earlier, later = np.where(swapped, pairs[:, 1::-1].T, pairs[:, :2].T)
    order = np.lexsort((key[earlier], key[later]))
    for first, second in zip(earlier[order].tolist(), later[order].tolist(), strict=True):
        candidate = standing[first]
        if standing[second] == second and fine_distance(detail[second], detail[candidate]) <= max_distance:
            standing[second] = candidate
    return standing


def clusters(num: int, pairs: np.ndarray) -> np.ndarray:
    """Return (num,) int64: for each place the smallest place that pairs join it to, itself where alone."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), np.int8)
    _, component = connected_components(coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(num, num)), directed=False)
    smallest = np.full(component.max(initial=-1) + 1, num, np.int64)
    np.minimum.at(smallest, component, np.arange(num))
    return smallest[component]
