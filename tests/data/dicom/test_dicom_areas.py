"""Which pixels are kept: by regions, by the detector, and what is refused."""

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
from arl_lightning.data.dicom.regions import Box, read_regions
from arl_lightning.data.dicom.text import has_text
from arl_lightning.data.media import UnreadableError

RECTANGLES = AreaOptions(tighten=False)


def areas(path, options=RECTANGLES):
    with open_object(path) as source:
        frames = Frames(source)
        return find_areas(frames, source.header, options, Look(frames))


def regions_of(path):
    with open_object(path) as source:
        frames = Frames(source)
        return read_regions(source.header, frames.height, frames.width)


def write(image, text, place, size=0.5):
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, 255, 1, cv2.LINE_AA)
    return image


@pytest.fixture
def screen(speckle):
    """A screen of 300 x 400 filled with noise: only regions can tell what is kept."""
    return speckle(300, 400)


# ---------------------------------------------------------------- regions


def test_both_ends_of_a_region_are_kept(screen, tmp_path):
    (area,) = areas(make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(10, 20, 109, 79)]))
    assert area.box == Box(20, 10, 80, 110)
    assert area.mask is None
    assert area.origin == "regions"


def test_a_union_leaves_zeros_between_its_regions(screen, tmp_path):
    items = [region(10, 20, 59, 79), region(110, 100, 159, 199)]
    (area,) = areas(make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=items))
    cleaned = area.clean(screen[area.box.slices])
    expected = np.zeros((180, 150), np.uint8)
    expected[:60, :50] = screen[20:80, 10:60]
    expected[80:, 100:] = screen[100:200, 110:160]
    np.testing.assert_array_equal(cleaned, expected)


def test_each_region_can_be_a_sample(screen, tmp_path):
    items = [region(10, 20, 59, 79), region(110, 100, 159, 199)]
    found = areas(
        make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=items), AreaOptions(regions="each", tighten=False)
    )
    assert [area.box for area in found] == [Box(20, 10, 80, 60), Box(100, 110, 200, 160)]


def test_other_regions_are_removed(screen, tmp_path):
    # M-mode, ECG wave form, grey bar as graphics, and a bar as the scanners write it: format and type 0 and 13.
    others = [region(200, 0, 299, 99, *kind) for kind in ((2, 1), (4, 10), (5, 13), (0, 13))]
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(10, 20, 109, 79), *others])
    assert [area.box for area in areas(path)] == [Box(20, 10, 80, 110)]
    path = make(tmp_path / "b", screen, SequenceOfUltrasoundRegions=others)
    with pytest.raises(UnreadableError, match="no B-mode or Doppler region"):
        areas(path)


@pytest.mark.parametrize("kind", [(1, 2), (3, 3), (3, 4)])
def test_colour_flow_and_spectra_are_doppler(kind, screen, tmp_path):
    items = [region(10, 20, 109, 79), region(200, 100, 299, 199, *kind)]
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=items)
    assert [area.doppler for area in areas(path)] == [True]
    assert [area.doppler for area in areas(path, AreaOptions(regions="each", tighten=False))] == [False, True]


def test_b_mode_under_a_colour_box_is_doppler(screen, tmp_path):
    items = [region(10, 20, 209, 179), region(50, 50, 99, 99, 1, 2)]
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=items)
    assert [area.doppler for area in areas(path, AreaOptions(regions="each", tighten=False))] == [True, True]


def test_a_reversed_region_is_turned(screen, tmp_path):
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(109, 79, 10, 20)])
    assert areas(path)[0].box == Box(20, 10, 80, 110)


def test_a_region_without_extent_is_dropped(screen, tmp_path):
    items = [region(50, 20, 50, 79), region(0, 0, 0, 0), region(10, 20, 109, 79)]
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=items)
    assert areas(path)[0].box == Box(20, 10, 80, 110)
    path = make(tmp_path / "b", screen, SequenceOfUltrasoundRegions=items[:2])
    with pytest.raises(UnreadableError, match="no B-mode or Doppler region"):
        areas(path)


def test_an_edge_that_is_counted_too_far_is_clipped(screen, tmp_path):
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(100, 20, 400, 79)])
    assert areas(path)[0].box == Box(20, 100, 80, 400)


def test_regions_of_a_larger_picture_are_not_trusted(screen, tmp_path):
    # As in examples_ybr_color.dcm: a picture scaled to 240 x 320 with the regions of 480 x 640.
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(84, 31, 595, 414)])
    assert not regions_of(path).trusted
    with pytest.raises(UnreadableError, match=NOT_SURE):
        areas(path)


def test_a_region_that_covers_the_screen_is_not_trusted(screen, tmp_path):
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(0, 0, 399, 299)])
    with pytest.raises(UnreadableError, match=NOT_SURE):
        areas(path)


def test_a_small_region_is_refused(screen, tmp_path):
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(10, 20, 39, 99)])
    with pytest.raises(UnreadableError, match="30x80 pixels"):
        areas(path)


CENTIMETRES = {"PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3}


def test_spacing_is_in_millimetres_with_four_digits(screen, tmp_path):
    item = region(10, 20, 109, 79, PhysicalDeltaX=0.0123456, PhysicalDeltaY=-0.0234567, **CENTIMETRES)
    assert areas(make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[item]))[0].spacing_mm == (0.2346, 0.1235)


@pytest.mark.parametrize(
    "attributes",
    [
        {"PhysicalDeltaX": 0.01, "PhysicalDeltaY": 0.01, "PhysicalUnitsXDirection": 4, "PhysicalUnitsYDirection": 3},
        {"PhysicalDeltaX": 0.0, "PhysicalDeltaY": 0.01, **CENTIMETRES},
        {"PhysicalDeltaX": float("nan"), "PhysicalDeltaY": 0.01, **CENTIMETRES},
        {},
    ],
)
def test_spacing_that_makes_no_sense_is_unknown(attributes, screen, tmp_path):
    item = region(10, 20, 109, 79, **attributes)
    assert areas(make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[item]))[0].spacing_mm is None


def test_regions_that_disagree_have_no_common_spacing(screen, tmp_path):
    items = [
        region(10, 20, 109, 79, PhysicalDeltaX=0.01, PhysicalDeltaY=0.01, **CENTIMETRES),
        region(200, 20, 299, 79, PhysicalDeltaX=0.02, PhysicalDeltaY=0.02, **CENTIMETRES),
    ]
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=items)
    assert areas(path)[0].spacing_mm is None
    each = areas(path, AreaOptions(regions="each", tighten=False))
    assert [area.spacing_mm for area in each] == [(0.1, 0.1), (0.2, 0.2)]


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
    for mode, doppler in (("0001", False), ("0011", True), ("0005", True), ("ABDOMEN", False)):
        path = make(tmp_path / "a", fan(), ImageType=["ORIGINAL", "PRIMARY", "", mode])
        assert areas(path)[0].doppler is doppler


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
