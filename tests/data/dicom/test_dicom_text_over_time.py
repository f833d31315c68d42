"""Text that stands in some of a cine's frames: told wherever it is seen, before the frame is given away."""

import cv2
import numpy as np
import pytest
from made_dicom import KEY, fan, make, region

from arl_lightning.data.dicom import area, look
from arl_lightning.data.dicom.deidentify import KEY_VARIABLE
from arl_lightning.data.dicom.text import has_text
from arl_lightning.data.shards.sample import Rejected
from arl_lightning.data.sources.dicom import Dicom

SECTOR = region(5, 10, 394, 289)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def written(image, place=(150, 180)):
    cv2.putText(image, "QUESNEL", place, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 1, cv2.LINE_AA)
    return image


def cine(with_text, num_frames=12):
    """Frames of a fan, one each half second; those of `with_text` hold a name."""
    return np.stack(
        [written(fan(seed=seed)) if seed in with_text else fan(seed=seed) for seed in range(num_frames)]
    )  # fmt: skip


def read(root, **options):
    source = Dicom(root, **options)
    return [item for unit in source.units() for item in source.read(unit)]


def kinds(items):
    return [type(item).__name__ for item in items]


@pytest.mark.parametrize("with_text", [range(1, 12), range(6), [7]])
def test_text_in_some_frames_refuses_or_flags_the_object(with_text, tmp_path):
    make(tmp_path / "a", cine(with_text), FrameTime="500", SequenceOfUltrasoundRegions=[SECTOR])
    (refused,) = read(tmp_path, reject_text=True)
    assert (type(refused), refused.reason) == (Rejected, area.TEXT_SEEN)
    flagged = read(tmp_path)
    assert kinds(flagged) == ["Flagged"] + ["Sample"] * 12


def test_text_that_moves_is_seen(tmp_path):
    frames = np.stack([written(fan(seed=step), (110 + 9 * step, 150 + 12 * step)) for step in range(6)])
    assert not has_text(frames.min(axis=0))
    make(tmp_path / "a", frames, FrameTime="500", SequenceOfUltrasoundRegions=[SECTOR])
    assert kinds(read(tmp_path, reject_text=True)) == ["Rejected"]


def noisy(seed):
    """A name on tissue so bright and coarse that it sticks to the letters, elsewhere in each frame."""
    frame = fan(seed=seed).astype(int) * 2
    return written(np.clip(frame, 0, 240).astype(np.uint8))


def test_text_that_stays_is_seen_where_no_frame_alone_shows_it(tmp_path, monkeypatch):
    frames = np.stack([noisy(seed) for seed in range(12)])
    assert has_text(frames.min(axis=0))
    # Whatever single frames show: what they have in common is looked at too.
    seen = []
    monkeypatch.setattr(look, "has_text", lambda image, mask: seen.append(image) or False)
    make(tmp_path / "a", frames, FrameTime="500", SequenceOfUltrasoundRegions=[region(0, 0, 379, 289)])
    read(tmp_path, tighten=False, regions="each")
    np.testing.assert_array_equal(seen[-1], frames.min(axis=0)[:290, :380])
    assert len(seen) == 13


@pytest.fixture
def four_looked_at(monkeypatch):
    monkeypatch.setattr(look, "LOOKED_AT", 4)  # of ten frames: 0, 3, 6, 9


def test_text_in_a_frame_that_was_not_looked_at_ends_the_object_before_it(tmp_path, four_looked_at):
    make(tmp_path / "a", cine([4, 5], 10), FrameTime="500", SequenceOfUltrasoundRegions=[SECTOR])
    items = read(tmp_path, reject_text=True)
    assert [item.frame for item in items[:-1]] == [0, 1, 2, 3]
    assert items[-1].reason == f"frame 4: {area.TEXT_SEEN}"


def test_text_in_a_frame_that_was_not_looked_at_flags_the_object_once(tmp_path, four_looked_at):
    make(tmp_path / "a", cine([4, 5], 10), FrameTime="500", SequenceOfUltrasoundRegions=[SECTOR])
    items = read(tmp_path)
    assert kinds(items) == ["Sample"] * 4 + ["Flagged"] + ["Sample"] * 6
    assert items[4].reason == area.TEXT_SEEN


def test_text_in_a_guessed_outline_is_never_given_away(tmp_path, four_looked_at):
    make(tmp_path / "a", cine([4], 10), FrameTime="500")
    assert kinds(read(tmp_path)) == ["Sample"] * 4 + ["Rejected"]
    assert kinds(read(tmp_path, undetected="keep")).count("Flagged") == 1


def test_each_region_is_searched(tmp_path):
    image = np.zeros((300, 640), np.uint8)
    image[:, :320], image[:, 320:] = fan(300, 320), written(fan(300, 320, seed=1), (110, 180))
    items = [region(4, 10, 315, 289), region(324, 10, 635, 289)]
    make(tmp_path / "a", image, SequenceOfUltrasoundRegions=items)
    assert kinds(read(tmp_path, regions="each", reject_text=True)) == ["Rejected"]
    assert kinds(read(tmp_path, regions="each")) == ["Flagged", "Sample", "Sample"]


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_coloured_text_in_a_region_is_seen(channel, tmp_path):
    image = np.full((300, 400, 3), 60, np.uint8)
    colour = [60, 60, 60]
    colour[channel] = 255  # bright in one channel, and nothing in the others
    cv2.putText(image, "QUESNEL", (150, 180), cv2.FONT_HERSHEY_SIMPLEX, 0.7, colour, 1, cv2.LINE_AA)
    make(tmp_path / "a", image, SequenceOfUltrasoundRegions=[SECTOR])
    assert kinds(read(tmp_path, reject_text=True)) == ["Rejected"]


def test_text_is_looked_for_in_pixels_as_they_are_packed(tmp_path):
    # The banner outside of the region is so bright that the name would be black beside it.
    image = written(fan()).astype(np.uint16)
    image[:8] = 65_535
    make(tmp_path / "a", image, SequenceOfUltrasoundRegions=[SECTOR])
    assert kinds(read(tmp_path, reject_text=True)) == ["Rejected"]


@pytest.mark.parametrize("stated", [True, False])
def test_an_object_is_searched_for_text_once(stated, tmp_path, monkeypatch):
    count = []
    monkeypatch.setattr(look, "has_text", lambda *given: count.append(1) or has_text(*given))
    make(tmp_path / "a", fan(), **({"SequenceOfUltrasoundRegions": [SECTOR]} if stated else {}))
    assert kinds(read(tmp_path, reject_text=True)) == ["Sample"]
    assert len(count) == 1
