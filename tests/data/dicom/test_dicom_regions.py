"""Which pixels are kept by an object's regions, and which regions are not trusted."""

import numpy as np
import pytest
from made_dicom import fan, make, region

from arl_lightning.data.dicom.area import (
    COVERED,
    NOT_SURE,
    AreaOptions,
    find_areas,
)
from arl_lightning.data.dicom.look import Look
from arl_lightning.data.dicom.objects import open_object
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.dicom.regions import Box, read_regions
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


@pytest.fixture
def screen(speckle):
    """A screen of 300 x 400 filled with noise: only regions can tell what is kept."""
    return speckle(300, 400)


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


@pytest.mark.parametrize(
    "items",
    [
        [region(3, 2, 396, 297)],  # 98.5 % of the width, 98.7 % of the height
        [region(0, 0, 199, 299), region(200, 0, 399, 299)],
        [region(0, 0, 189, 299), region(210, 0, 399, 299)],  # the two halves of a dual picture, a gap between them
        [region(0, 0, 399, 150), region(0, 140, 399, 299, 3, 3)],
    ],
)
def test_regions_that_cover_the_screen_together_are_not_trusted(items, screen, tmp_path):
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=items)
    assert not regions_of(path).trusted
    with pytest.raises(UnreadableError, match=NOT_SURE):
        areas(path)


@pytest.mark.parametrize(
    "items",
    [
        [region(0, 0, 199, 149), region(200, 150, 399, 299)],  # opposite corners
        [region(0, 12, 399, 299)],  # a banner of twelve lines
        [region(0, 0, 399, 299, 4, 10, RegionFlags=1), region(10, 20, 109, 79)],  # of a kind that is not kept
    ],
)
def test_regions_that_leave_room_for_a_banner_are_trusted(items, screen, tmp_path):
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=items)
    assert regions_of(path).trusted
    assert areas(path)


@pytest.mark.parametrize("edge", ["MinX0", "MinY0", "MaxX1", "MaxY1"])
def test_regions_of_which_a_coordinate_is_missing_are_not_trusted(edge, screen, tmp_path):
    item = region(200, 60, 359, 289)
    delattr(item, f"RegionLocation{edge}")
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(10, 20, 109, 79), item])
    assert not regions_of(path).trusted
    with pytest.raises(UnreadableError, match=NOT_SURE):
        areas(path)


@pytest.mark.parametrize(("right", "trusted"), [(401, True), (402, False), (410, False)])
def test_a_region_ends_at_most_two_pixels_beyond_the_picture(right, trusted, screen, tmp_path):
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(100, 20, right, 79)])
    assert regions_of(path).trusted is trusted


@pytest.mark.parametrize("mode", ["union", "each"])
@pytest.mark.parametrize(("flags", "is_kept"), [({"RegionFlags": 0}, False), ({}, False), ({"RegionFlags": 1}, True)])
def test_what_lies_above_a_region_and_is_not_kept_is_cut_out_of_it(mode, flags, is_kept, screen, tmp_path):
    ecg = region(100, 200, 299, 249, 4, 10)
    del ecg.RegionFlags
    for keyword, value in flags.items():
        setattr(ecg, keyword, value)
    items = [region(10, 10, 389, 289, RegionFlags=1), ecg]
    (area,) = areas(
        make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=items), AreaOptions(regions=mode, tighten=False)
    )
    kept = np.ones((280, 380), bool)
    kept[190:240, 90:290] = is_kept
    np.testing.assert_array_equal(area.clean(np.full((280, 380), 9, np.uint8)), np.where(kept, 9, 0))


def test_something_above_a_regions_corner_is_cut_out_too(screen, tmp_path):
    items = [region(50, 60, 249, 259), region(0, 0, 99, 79, 5, 13), region(240, 250, 399, 299, 4, 10)]
    (area,) = areas(make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=items))
    kept = np.ones((200, 200), bool)
    kept[:20, :50] = kept[190:, 190:] = False
    np.testing.assert_array_equal(area.mask, kept)


def test_a_region_that_others_cover_is_refused(screen, tmp_path):
    path = make(
        tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(50, 60, 249, 259), region(0, 0, 399, 299, 5)]
    )
    with pytest.raises(UnreadableError) as caught:
        areas(path)
    assert str(caught.value) == COVERED


def test_integrated_backscatter_is_b_mode(screen, tmp_path):
    path = make(tmp_path / "a", screen, SequenceOfUltrasoundRegions=[region(10, 20, 109, 79, 1, 15)])
    assert [(area.box, area.doppler) for area in areas(path)] == [(Box(20, 10, 80, 110), False)]


def test_a_spectrum_is_not_tightened(tmp_path):
    path = make(tmp_path / "a", fan(), SequenceOfUltrasoundRegions=[region(5, 10, 394, 289, 3, 3)])
    assert areas(path, AreaOptions())[0].mask is None


def test_what_one_region_keeps_another_does_not_take_away(tmp_path):
    # The second region's sector leaves its corner free, in which the first one, a spectrum, stands.
    items = [region(5, 10, 104, 59, 3, 3), region(5, 10, 394, 289)]
    (area,) = areas(make(tmp_path / "a", fan(), SequenceOfUltrasoundRegions=items), AreaOptions())
    kept = np.zeros((300, 400), bool)
    kept[area.box.slices] = area.mask
    assert kept[10:60, 5:105].all()
    assert not kept[240:290, 5:20].any()


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
