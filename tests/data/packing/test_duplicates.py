import cv2
import numpy as np
import pytest

from arl_lightning.data.packing import duplicates
from arl_lightning.data.packing.duplicates import (
    COARSE_BITS,
    clusters,
    lookalikes,
    near_duplicates,
    perceptual_hashes,
)


def hashed(images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    pairs = [perceptual_hashes(image) for image in images]
    return np.array([coarse for coarse, _ in pairs], np.uint64), np.array([fine for _, fine in pairs], np.uint64)


def random_hashes(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 2**63, num, dtype=np.uint64)
    return coarse, generator.integers(0, 2**63, (num, 4), dtype=np.uint64), np.zeros(num, np.uint64)


def with_flipped_bits(value: np.uint64, num_bits: int, generator: np.random.Generator) -> np.uint64:
    return value ^ np.uint64(sum(1 << int(bit) for bit in generator.choice(64, num_bits, replace=False)))


def test_a_hash_holds_the_signs_of_low_frequencies():
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    coarse, fine = perceptual_hashes(ramp)
    # A ramp from left to right: the mean is positive, the odd horizontal frequencies negative, all others nearly 0.
    top_row = [(coarse >> (63 - place)) & 1 for place in range(8)]
    assert top_row[0] == 1
    assert top_row[1] == top_row[3] == 0
    assert len(fine) == 4


def test_scaled_compressed_and_marked_copies_stay_close_and_others_do_not(ultrasound_data):
    paths = sorted((ultrasound_data / "busi_full_resolution_sample").rglob("*).png"))
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    coarse, fine = hashed(images)
    for change in (
        lambda image: cv2.resize(image, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA),
        lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 0),
        lambda image: cv2.drawMarker(cv2.drawMarker(image.copy(), (100, 100), 255), (200, 160), 255),  # callipers
    ):
        changed, changed_fine = hashed([change(image) for image in images])
        assert np.bitwise_count(changed ^ coarse).max() <= COARSE_BITS
        assert duplicates.fine_distance(changed_fine, fine).max() <= 24
    apart = [duplicates.fine_distance(fine[i], fine[j]) for i in range(12) for j in range(i)]
    assert min(apart) > 60


def test_all_near_pairs_of_a_small_set_are_found():
    coarse, fine, video = random_hashes(300)
    generator = np.random.default_rng(1)
    for place in range(0, 100, 2):
        coarse[place + 1] = with_flipped_bits(coarse[place], place % 5, generator)
        fine[place + 1] = fine[place]
    coarse[200], fine[200] = with_flipped_bits(coarse[201], COARSE_BITS + 1, generator), fine[201]
    coarse[210] = coarse[211]  # alike from afar, not in detail
    pairs = near_duplicates(coarse, fine, video, 24)
    assert pairs.tolist() == [[place, place + 1, 0] for place in range(0, 100, 2)]


@pytest.mark.parametrize(("num_bits", "share"), [(0, 1.0), (3, 1.0), (4, 0.97)])
def test_nearly_all_near_pairs_of_a_large_set_are_found(monkeypatch, num_bits, share):
    monkeypatch.setattr(duplicates, "BRUTE_FORCE", 0)
    coarse, fine, video = random_hashes(6000)
    generator = np.random.default_rng(2)
    for place in range(0, 2000, 2):
        coarse[place + 1] = with_flipped_bits(coarse[place], num_bits, generator)
        fine[place + 1] = fine[place] ^ np.uint64(0b111)
    pairs = near_duplicates(coarse, fine, video, 24)
    assert share * 1000 <= len(pairs) <= 1000
    assert set(pairs[:, 2].tolist()) == {12}
    assert (pairs[:, 0] + 1 == pairs[:, 1]).all()


def test_images_of_equal_hashes_are_paired_with_the_first_of_another_clip():
    coarse, fine, video = random_hashes(6)
    coarse[:], fine[:] = coarse[0], fine[0]
    video[:] = [7, 7, 0, 0, 8, 8]
    assert near_duplicates(coarse, fine, video, 0).tolist() == [[0, place, 0] for place in (2, 3, 4, 5)]


def test_frames_of_one_clip_are_no_duplicates_of_each_other(monkeypatch):
    coarse, fine, video = random_hashes(50)
    coarse[:], fine[:] = coarse[0], fine[0]
    video[:] = 3
    assert near_duplicates(coarse, fine, video, 24).size == 0


def test_lookalikes_name_the_first_other():
    coarse, fine, _ = random_hashes(5)
    others, other_fine = coarse[[3, 1, 1]], fine[[3, 1, 1]].copy()
    other_fine[0] ^= np.uint64(2**40 - 1)  # 160 bits apart
    assert lookalikes(coarse, fine, others, other_fine, 24).tolist() == [-1, 1, -1, -1, -1]
    assert lookalikes(coarse, fine, others[:0], other_fine[:0], 24).tolist() == [-1] * 5


def test_clusters_by_hand():
    assert clusters(6, np.array([[4, 5], [1, 4]])).tolist() == [0, 1, 2, 3, 1, 1]
    assert clusters(0, np.empty((0, 2), int)).tolist() == []
