"""Which pixels are kept: by the detector, where text may be, and what is refused."""

import cv2
import numpy as np
import pytest
from made_dicom import fan, make, region

from arl_lightning.data.dicom.area import (
    NOT_SURE,
    TEXT_DETECTED,
    TEXT_SEEN,
    TEXT_STATED,
    AreaOptions,
    find_areas,
)
from arl_lightning.data.dicom.look import Look
from arl_lightning.data.dicom.objects import open_object
from arl_lightning.data.dicom.outline import find_outline
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.dicom.regions import Box
from arl_lightning.data.dicom.text import has_text
from arl_lightning.data.media import UnreadableError

RECTANGLES = AreaOptions(tighten=False)


def areas(path, options=RECTANGLES):
    with open_object(path) as source:
        frames = Frames(source)
        return find_areas(frames, source.header, options, Look(frames))


def write(image, text, place, size=0.5):
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, 255, 1, cv2.LINE_AA)
    return image


@pytest.fixture
def screen(speckle):
    """A screen of 300 x 400 filled with noise: only regions can tell what is kept."""
    return speckle(300, 400)


# ---------------------------------------------------------------- the detector


def overlap(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def test_a_fan_is_found_and_the_banner_is_not(tmp_path):
    image = fan()
    truth = image > 0
    write(image, "QUESNEL OTTILIE 12.03.1961", (5, 15), 0.6)
    (area,) = areas(make(tmp_path / "a", image))
    assert area.origin == "detected"
    kept = np.zeros(image.shape, bool)
    kept[area.box.slices] = area.mask
    assert overlap(kept, truth) > 0.9
    assert not kept[:20].any()


def test_a_rectangle_is_found(speckle):
    image = np.zeros((300, 400), np.uint8)
    image[60:260, 80:320] = speckle(200, 240) // 2 + 60
    write(image, "QUESNEL OTTILIE", (5, 30), 0.8)
    mask = find_outline([image])
    assert overlap(mask, np.pad(np.ones((200, 240), bool), ((60, 40), (80, 80)))) > 0.95


def test_a_cine_is_told_by_what_changes():
    # A bright photograph of a face beside the fan: as large, as bright, but it does not move.
    frames = [fan(300, 600, seed=seed) for seed in range(6)]
    still = np.random.default_rng(9).integers(60, 200, (120, 110), dtype=np.uint8)
    for frame in frames:
        frame[170:290, 5:115] = still
    truth = fan(300, 600) > 0
    mask = find_outline(frames)
    assert overlap(mask, truth) > 0.9
    assert not mask[170:290, 5:100].any()


@pytest.mark.parametrize(
    "draw",
    [
        lambda image: image.fill(0),
        lambda image: image.fill(120),
        lambda image: cv2.circle(image, (60, 60), 20, 200, -1),
        lambda image: cv2.fillPoly(image, [np.array([[10, 10], [390, 40], [30, 290]])], 160),
        lambda image: np.copyto(image, 200 - np.arange(400, dtype=np.uint8)[None] // 4),
    ],
    ids=["black", "grey", "small", "triangle askew", "bright screen"],
)
def test_what_is_no_ultrasound_picture_is_not_sure(draw):
    image = np.zeros((300, 400), np.uint8)
    draw(image)
    assert find_outline([image]) is None


def test_something_bright_between_two_parts_of_the_outline_is_not_taken_in():
    image = fan()
    image[150:300, 175:225] = 0  # a deep shadow, which the outline bridges
    assert find_outline([image]) is not None
    for column in (190, 200, 210):  # thin lines of a graph in it
        cv2.line(image, (column, 200), (column, 290), 255, 2)
    assert find_outline([image]) is None


def test_an_object_that_is_not_sure_is_rejected_unless_it_is_to_be_kept(screen, tmp_path):
    path = make(tmp_path / "a", screen)
    with pytest.raises(UnreadableError, match=NOT_SURE):
        areas(path)
    (area,) = areas(path, AreaOptions(undetected="keep"))
    assert (area.box, area.mask, area.origin) == (Box(0, 0, 300, 400), None, "whole")


def test_text_within_a_detected_outline_rejects(tmp_path):
    image = write(fan(), "OTTILIE", (150, 180), 0.7)
    with pytest.raises(UnreadableError, match=TEXT_DETECTED):
        areas(make(tmp_path / "a", image))


def test_image_type_tells_doppler_where_no_region_does(tmp_path):
    doppler_modes = ("0011", "0005", "0009", "0021", "0101", "010D", "0008")
    words = ("ABDOMEN", "FACE", "DEAD", "ECHO", "8", "00011", "")
    for mode, doppler in [(mode, True) for mode in doppler_modes] + [
        (word, False) for word in ("0001", "0041", *words)
    ]:
        path = make(tmp_path / "a", fan(), ImageType=["ORIGINAL", "PRIMARY", "", mode])
        assert areas(path)[0].doppler is doppler


def test_m_mode_without_regions_is_refused(tmp_path):
    for mode in ("0002", "0003", "000A"):
        path = make(tmp_path / "a", fan(), ImageType=["ORIGINAL", "PRIMARY", "", mode])
        with pytest.raises(UnreadableError, match="M-mode"):
            areas(path, AreaOptions(undetected="keep"))
        path = make(
            tmp_path / "b", fan(), ImageType=["ORIGINAL", "PRIMARY", "", mode],
            SequenceOfUltrasoundRegions=[region(5, 10, 394, 289)],
        )  # fmt: skip
        assert areas(path)


def test_pixel_spacing_counts_where_there_is_no_region(tmp_path):
    assert areas(make(tmp_path / "a", fan(), PixelSpacing=["0.2", "0.1"]))[0].spacing_mm == (0.2, 0.1)


def test_a_region_is_tightened_to_the_sector(tmp_path):
    image = fan()
    truth = image > 0
    write(image, "OTTILIE", (12, 40), 0.6)
    path = make(tmp_path / "a", image, SequenceOfUltrasoundRegions=[region(5, 10, 394, 289)])
    (loose,) = areas(path)
    assert loose.clean(image[loose.box.slices])[15:35, 5:90].max() == 255
    (tight,) = areas(path, AreaOptions())
    kept = np.zeros(image.shape, bool)
    kept[tight.box.slices] = tight.mask
    assert not (kept & ~truth & (image > 0)).any()
    assert overlap(kept, truth) > 0.9


def test_a_region_without_a_clear_sector_is_kept_whole(screen, tmp_path):
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(10, 20, 109, 79)])
    (area,) = areas(path, AreaOptions())
    assert area.box == Box(20, 10, 80, 110)
    assert area.mask is None


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("text", ["QUESNEL", "Ottilie", "12.03.1961", "LT LOQ 3"])
@pytest.mark.parametrize("size", [0.4, 0.6, 1.0])
def test_text_on_black_and_on_tissue_is_seen(text, size):
    black = np.zeros((300, 400), np.uint8)
    assert has_text(write(black, text, (40, 100), size))
    assert has_text(write(fan(), text, (140, 180), size))


def test_text_outside_of_the_mask_is_not_seen():
    image = write(np.zeros((300, 400), np.uint8), "QUESNEL", (40, 100))
    mask = np.zeros(image.shape, bool)
    mask[150:] = True
    assert not has_text(image, mask)


def test_coloured_text_is_seen():
    image = np.zeros((200, 300, 3), np.uint8)
    cv2.putText(image, "QUESNEL", (30, 100), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 255), 1)
    assert has_text(image)


@pytest.mark.parametrize("seed", range(5))
def test_speckle_is_no_text(seed, speckle):
    assert not has_text(fan(seed=seed))
    assert not has_text(cv2.GaussianBlur(speckle(200, 300, seed=seed), (5, 5), 0))


def test_real_pictures_without_text_are_not_flagged(ultrasound_data):
    paths = sorted(ultrasound_data.glob("camus_jpg/*/*/images/*.jpg"))[::8]
    paths += sorted(ultrasound_data.glob("hc18/training_set/*HC.png"))[::6]
    assert len(paths) >= 20
    assert [path.name for path in paths if has_text(cv2.imread(str(path)))] == []


def test_the_outline_of_real_fans_is_found(ultrasound_data):
    paths = sorted(ultrasound_data.glob("camus_jpg/*/*/images/*.jpg"))[::8]
    found = [find_outline([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)]) for path in paths]
    assert sum(mask is not None for mask in found) >= 0.9 * len(paths)


def test_text_and_the_tag_reject_by_option(tmp_path):
    regions = {"SequenceOfUltrasoundRegions": [region(5, 10, 394, 289)]}
    reject = AreaOptions(tighten=False, reject_text=True)
    clean, written = fan(), write(fan(), "OTTILIE", (150, 180), 0.7)
    assert areas(make(tmp_path / "a", clean, BurnedInAnnotation="NO", **regions), reject)
    assert areas(make(tmp_path / "b", written, **regions))
    with pytest.raises(UnreadableError) as caught:
        areas(make(tmp_path / "b", written, **regions), reject)
    assert str(caught.value) == TEXT_SEEN
    with pytest.raises(UnreadableError) as caught:
        areas(make(tmp_path / "c", clean, BurnedInAnnotation="YES", **regions), reject)
    assert str(caught.value) == TEXT_STATED


def test_text_of_a_cine_is_what_stays(tmp_path):
    frames = np.stack([write(fan(seed=seed), "OTTILIE", (150, 180), 0.7) for seed in range(4)])
    path = make(tmp_path / "a", frames, SequenceOfUltrasoundRegions=[region(5, 10, 394, 289)])
    with pytest.raises(UnreadableError, match="burned-in text seen"):
        areas(path, AreaOptions(reject_text=True))
