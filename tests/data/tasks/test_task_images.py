"""Cases become pixels and masks, and whatever is wrong with their files gets its line."""

import threading
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_task import listing_of, write_cases, write_image
from PIL import Image

from arl_lightning.data.media import quiet_pillow
from arl_lightning.data.tasks import pixels
from arl_lightning.data.tasks.case import Case, Finding, Listing
from arl_lightning.data.tasks.images import CaseImages, prepare
from arl_lightning.data.tasks.masks import fill_outline, read_mask_file
from arl_lightning.errors import UserError


def prepared(cases: list[Case], **options: object) -> tuple[CaseImages, list[Finding]]:
    settings = {"side": 64, "in_chans": 1, "with_masks": False, "show_progress": False} | options
    return prepare(listing_of(cases), **settings)  # type: ignore[arg-type]


def stopping(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.stops]


def masked(path: Path, mask: np.ndarray, size: tuple[int, int] = (32, 32), structures: int = 1) -> np.ndarray | Finding:
    return read_mask_file(write_image(path, mask), structures, size)


def test_a_large_image_is_scaled_by_its_shorter_side_and_a_small_one_stays(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4, height=80, width=120)
    images, _ = prepared(cases, side=40)
    assert images.image(0).shape == (40, 60)
    assert images.native_size(0) == (80, 120)
    images, _ = prepared(cases, side=100)
    np.testing.assert_array_equal(images.image(0), np.asarray(Image.open(cases[0].path)))


@pytest.mark.parametrize("keep_gb", [4.0, 0.0])
def test_in_chans_decides_the_channels_whatever_the_file_has(tmp_path: Path, keep_gb: float, speckle) -> None:
    cases = write_cases(tmp_path, 4)
    colour = write_image(tmp_path / "z.png", speckle(40, 48, 3))
    cases.append(Case("z.png", colour, "benign"))
    grey, _ = prepared(cases, in_chans=1, keep_gb=keep_gb)
    rgb, _ = prepared(cases, in_chans=3, keep_gb=keep_gb)
    assert [grey.image(0).shape, grey.image(4).shape] == [(40, 48), (40, 48)]
    assert [rgb.image(0).shape, rgb.image(4).shape] == [(40, 48, 3), (40, 48, 3)]
    np.testing.assert_array_equal(rgb.image(0)[..., 2], grey.image(0))
    np.testing.assert_array_equal(rgb.image(4), np.asarray(Image.open(colour)))


def test_pixels_that_do_not_fit_are_decoded_at_each_use_and_are_the_same(tmp_path: Path) -> None:
    cases = [replace(case, outline=((2, 2), (30, 2), (2, 30))) for case in write_cases(tmp_path, 20)]
    kept, _ = prepared(cases, with_masks=True, side=32)
    anew, findings = prepared(cases, with_masks=True, side=32, keep_gb=10 * 40 * 48 / 1e9)
    assert anew.kept is None
    assert kept.kept is not None
    assert not stopping(findings)
    for place in (0, 19):
        np.testing.assert_array_equal(kept.image(place), anew.image(place))
        np.testing.assert_array_equal(kept.mask(place), anew.mask(place))
        np.testing.assert_array_equal(kept.native_mask(place), anew.native_mask(place))


def test_a_mask_has_its_images_scaled_size_and_its_own(tmp_path: Path) -> None:
    (case,) = write_cases(tmp_path, 1, height=80, width=120)
    mask = np.zeros((80, 120), np.uint8)
    mask[:40, 60:] = 255
    case = replace(case, masks=(write_image(tmp_path / "mask.png", mask),))
    images, _ = prepared([case], side=40, with_masks=True)
    np.testing.assert_array_equal(images.native_mask(0), mask // 255)
    np.testing.assert_array_equal(images.mask(0), mask[::2, ::2] // 255)


def test_a_case_without_a_readable_image_is_refused_by_name(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    cases[1].path.write_bytes(cases[1].path.read_bytes()[:200])
    images, findings = prepared(cases)
    (found,) = stopping(findings)
    assert (found.path, found.kind) == (cases[1].path, "unreadable")
    with pytest.raises(UserError, match=r"001\.png: cannot be read"):
        images.image(1)


def test_restricting_keeps_the_pixels_of_the_cases_that_are_left(tmp_path: Path) -> None:
    images, _ = prepared(write_cases(tmp_path, 4))
    fewer = images.restricted(Listing(images.listing.cases[2:]))
    np.testing.assert_array_equal(fewer.image(1), images.image(3))
    assert len(fewer) == 2
    copies = CaseImages(images.listing, 64, 1, {}, None, dict(enumerate([b"x", b"y", b"z", b"y"])))
    assert copies.restricted(Listing(images.listing.cases[1:])).groups == [
        "image 001.png",
        "image 002.png",
        "image 001.png",
    ]


def test_a_missing_image_is_found(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    cases[2].path.unlink()
    (found,) = stopping(prepared(cases)[1])
    assert (found.path, found.kind) == (cases[2].path, "missing")


def test_an_image_of_nan_alone_is_unreadable_and_single_nan_is_not(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    values = np.random.default_rng(0).random((40, 48), np.float32)
    values[0, 0] = np.nan
    some, only = tmp_path / "some.tif", tmp_path / "only.tif"
    Image.fromarray(values).save(some)
    Image.fromarray(np.full_like(values, np.nan)).save(only)
    cases += [Case("some.tif", some, "benign"), Case("only.tif", only, "benign")]
    (found,) = stopping(prepared(cases)[1])
    assert (found.path, found.kind, found.reason) == (only, "unreadable", "no finite pixel values")


def test_decoding_in_threads_leaves_the_interpreters_warnings_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speckle
) -> None:
    """Of two threads that silence warnings, the second to begin is made to end last: it restores the silence."""
    begun, both, first_ended = [], threading.Barrier(2, timeout=20), threading.Event()

    def decode(path: Path) -> np.ndarray:
        with quiet_pillow():
            begun.append(path)
            both.wait()
            if begun[0] != path:
                assert first_ended.wait(20)
        first_ended.set()
        return speckle(40, 48)

    monkeypatch.setattr(pixels, "decode_image", decode)
    before = list(warnings.filters)
    prepared(write_cases(tmp_path, 2))
    assert len(begun) == 2
    assert warnings.filters == before


def test_the_wanted_frames_of_a_clip_are_read(tmp_path: Path, write_clip) -> None:
    clip = write_clip(tmp_path / "clip.mp4", num_frames=30)
    cases = [Case(f"clip.mp4#{frame:02}", clip, "benign", video="clip", frame=frame) for frame in (3, 20, 29)]
    for keep_gb in (4.0, 0.0):
        images, _ = prepared(cases, keep_gb=keep_gb)
        levels = [images.image(place).mean() for place in range(3)]
        assert levels == pytest.approx([12, 80, 116], abs=3)  # frame i is of grey level 4 i


def test_a_clip_that_stops_early_is_one_finding_with_its_numbers(tmp_path: Path, write_clip) -> None:
    clip = write_clip(tmp_path / "clip.avi", num_frames=20)
    frames = [Case(f"clip.avi#{frame:02}", clip, "benign", video="clip", frame=frame) for frame in (5, 25, 30)]
    images, findings = prepared([*frames, *write_cases(tmp_path, 4)])
    (found,) = stopping(findings)
    assert (found.path, found.kind) == (clip, "unreadable")
    assert "20 frames can be decoded, frame 25 is asked for" in found.reason
    first = next(place for place, case in enumerate(images.listing.cases) if case.frame == 5)
    assert images.image(first).mean() == pytest.approx(20, abs=3)


def test_half_an_avi_is_one_finding(tmp_path: Path, write_clip) -> None:
    clip = write_clip(tmp_path / "clip.avi", num_frames=40, noise=True)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    cases = [Case(f"clip.avi#{frame:02}", clip, "benign", video="clip", frame=frame) for frame in (0, 39)]
    (found,) = stopping(prepared([*cases, *write_cases(tmp_path, 4)])[1])
    assert (found.path, found.kind) == (clip, "unreadable")
    assert "frame 39 is asked for" in found.reason


def test_one_structure_starts_at_128_or_above_0_where_1_is_the_highest(tmp_path: Path) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[0, :4] = 1, 127, 128, 255
    assert masked(tmp_path / "a.png", mask).sum() == 2  # type: ignore[union-attr]
    assert masked(tmp_path / "b.png", (mask > 0).astype(np.uint8)).sum() == 4  # type: ignore[union-attr]
    assert masked(tmp_path / "c.png", mask > 0).sum() == 4  # type: ignore[union-attr]


def test_a_mask_of_16_bits_is_cut_in_the_middle_of_them(tmp_path: Path) -> None:
    mask = np.zeros((32, 32), np.uint16)
    mask[0, :5] = 128, 257, 32895, 32896, 65535  # 257 * 128 = 32896
    assert masked(tmp_path / "a.png", mask).sum() == 2  # type: ignore[union-attr]
    mask[0, :5] = 0, 0, 127, 128, 255  # values of 8 bits
    assert masked(tmp_path / "b.png", mask).sum() == 2  # type: ignore[union-attr]
    found = masked(tmp_path / "c.png", np.full((32, 32), 4095, np.uint16))
    assert isinstance(found, Finding)
    assert found.reason == "mask whose highest value is 4095; draw the structure as 65535 or 1"


def test_a_mask_too_dark_to_be_meant_is_found(tmp_path: Path) -> None:
    found = masked(tmp_path / "a.png", np.full((32, 32), 100, np.uint8))
    assert isinstance(found, Finding)
    assert "highest value is 100" in found.reason


def test_colours_count_by_their_brightest_channel(tmp_path: Path) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[:2, :, 0] = 255
    assert masked(tmp_path / "a.png", red).sum() == 64  # type: ignore[union-attr]


def test_several_structures_are_values_and_coloured_palettes_their_indexes(tmp_path: Path) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[0, :3] = 1, 2, 3
    np.testing.assert_array_equal(masked(tmp_path / "a.png", mask, structures=3), mask)
    palette = Image.fromarray(mask, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_mask_file(tmp_path / "b.png", 3, (32, 32)), mask)
    np.testing.assert_array_equal(masked(tmp_path / "c.png", mask.astype(np.uint16), structures=3), mask)
    found = masked(tmp_path / "d.png", mask, structures=2)
    assert isinstance(found, Finding)
    assert found.kind == "inconsistent"
    assert "with the values 3" in found.reason


def test_a_palette_of_greys_stands_for_its_greys(tmp_path: Path) -> None:
    indexes = np.zeros((32, 32), np.uint8)
    indexes[:2] = 1
    palette = Image.fromarray(indexes, "P")
    palette.putpalette([255, 255, 255, 0, 0, 0])  # the background's index is 1
    palette.save(tmp_path / "a.png")
    assert read_mask_file(tmp_path / "a.png", 1, (32, 32)).sum() == 30 * 32  # type: ignore[union-attr]


def test_several_files_are_united(tmp_path: Path) -> None:
    (case,) = write_cases(tmp_path, 1)
    one, other = np.zeros((40, 48), np.uint8), np.zeros((40, 48), np.uint8)
    one[:2], other[1:3] = 255, 255
    masks = (write_image(tmp_path / "a.png", one), write_image(tmp_path / "b.png", other))
    images, _ = prepared([replace(case, masks=masks)], with_masks=True)
    assert images.native_mask(0).sum() == 3 * 48


@pytest.mark.parametrize(
    ("mask", "kind", "said"),
    [
        (np.zeros((40, 47), np.uint8), "inconsistent", "mask of 47x40 pixels for an image of 48x40"),
        (np.zeros((40, 48), np.uint8), "note", "empty mask"),
        (None, "missing", "mask that the image names"),
        (b"half a mask", "unreadable", "not an image"),
    ],
)
def test_a_mask_that_cannot_be_used_is_found(tmp_path: Path, mask: object, kind: str, said: str) -> None:
    (case,) = write_cases(tmp_path, 1)
    path = tmp_path / "mask.png"
    if isinstance(mask, bytes):
        path.write_bytes(mask)
    elif isinstance(mask, np.ndarray):
        write_image(path, mask)
    images, findings = prepared([replace(case, masks=(path,))], with_masks=True)
    (found,) = findings
    assert (found.path, found.kind) == (path, kind)
    assert said in found.reason
    if kind != "note":
        with pytest.raises(UserError, match=r"mask\.png"):
            images.mask(0)


def test_a_case_without_a_mask_is_found_for_a_segmentation_alone(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    assert {finding.kind for finding in prepared(cases, with_masks=True)[1]} == {"missing"}
    assert prepared(cases)[1] == []


def test_an_outline_covers_the_pixels_under_it() -> None:
    mask = fill_outline([(2, 2), (5, 2), (5, 5), (2, 5)], (9, 9))
    expected = np.zeros((9, 9), np.uint8)
    expected[2:6, 2:6] = 1
    np.testing.assert_array_equal(mask, expected)
    assert fill_outline([(-5, -5), (3, -5), (3, 3), (-5, 3)], (9, 9)).sum() == 16


@pytest.mark.parametrize("keep_gb", [4.0, 0.0])
def test_a_box_is_the_image_and_its_masks_part(tmp_path: Path, keep_gb: float) -> None:
    (whole,) = write_cases(tmp_path, 1, height=80, width=120)
    pixels = np.asarray(Image.open(whole.path))
    drawn = np.zeros((80, 120), np.uint8)
    drawn[30:50, 100:] = 255
    of_files = replace(whole, key="a", box=(40, 10, 110, 60), masks=(write_image(tmp_path / "mask.png", drawn),))
    outlined = replace(of_files, key="b", masks=(), outline=((39.5, 20.5), (50.5, 20.5), (50.5, 30.5), (39.5, 30.5)))
    images, findings = prepared(
        [of_files, outlined, replace(whole, key="c", masks=of_files.masks)], with_masks=True, keep_gb=keep_gb
    )
    assert not stopping(findings)
    np.testing.assert_array_equal(images.image(0), pixels[10:60, 40:110])
    assert [images.native_size(place) for place in range(3)] == [(50, 70), (50, 70), (80, 120)]
    assert images.native_sizes == {0: (50, 70), 1: (50, 70), 2: (80, 120)}
    np.testing.assert_array_equal(images.native_mask(0), drawn[10:60, 40:110] // 255)
    expected = np.zeros((50, 70), np.uint8)
    expected[10:21, 0:11] = 1  # rounded in the file to 40..50 and 20..30, then moved by the box's corner
    np.testing.assert_array_equal(images.native_mask(1), expected)
    np.testing.assert_array_equal(images.native_mask(2), drawn // 255)
    np.testing.assert_array_equal(images.restricted(Listing(images.listing.cases[1:])).image(0), images.image(1))


def test_a_part_is_scaled_by_its_own_shorter_side(tmp_path: Path) -> None:
    (case,) = write_cases(tmp_path, 1, height=80, width=120)
    case = replace(case, box=(0, 0, 120, 64), outline=((0, 0), (120, 0), (120, 31), (0, 31)))
    images, _ = prepared([case], side=32, with_masks=True)
    assert images.image(0).shape == images.mask(0).shape == (32, 60)
    assert images.mask(0)[:16].all()
    assert not images.mask(0)[16:].any()


def test_a_kept_part_does_not_keep_the_whole_in_memory(tmp_path: Path) -> None:
    (case,) = write_cases(tmp_path, 1, height=80, width=120)
    images, _ = prepared([replace(case, box=(0, 0, 120, 40))])
    assert images.image(0).base is None
    assert images.num_bytes == 40 * 120


@pytest.mark.parametrize("box", [(0, 0, 49, 40), (0, -1, 48, 40), (40, 0, 8, 40), (0, 5, 48, 5)])
def test_a_box_that_is_not_within_the_picture_is_found(tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    cases = write_cases(tmp_path, 4)
    cases[2] = replace(cases[2], box=box)
    images, findings = prepared(cases)
    (found,) = stopping(findings)
    assert (found.path, found.kind) == (cases[2].path, "inconsistent")
    assert found.reason == f"002.png: box {str(box)[1:-1]} is not within the 48x40 pixels of the picture; correct it"
    with pytest.raises(UserError, match=r"002\.png"):
        images.image(2)


def test_a_box_smaller_than_any_image_is_found(tmp_path: Path) -> None:
    (case,) = write_cases(tmp_path, 1)
    reasons = [found.reason for found in prepared([replace(case, box=(0, 0, 31, 40))])[1] if found.stops]
    assert "000.png: box of 31x40 pixels; at least 32x32 are needed; enlarge it" in reasons


def test_a_mask_that_shows_nothing_within_the_box_is_noted(tmp_path: Path) -> None:
    (case,) = write_cases(tmp_path, 1)
    drawn = np.zeros((40, 48), np.uint8)
    drawn[:, 40:] = 255
    path = write_image(tmp_path / "mask.png", drawn)
    (found,) = prepared([replace(case, box=(0, 0, 40, 40), masks=(path,))], with_masks=True)[1]
    assert (found.path, found.kind) == (path, "note")
    assert found.reason == "empty mask: it shows no structure within the box of 000.png"


def test_two_parts_of_one_picture_are_two_pictures_and_the_same_part_is_one(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    left, right = (
        replace(cases[0], box=(0, 0, 32, 40)),
        replace(cases[0], key="z", label="malignant", box=(8, 0, 40, 40)),
    )
    assert prepared([left, right, *cases[1:]])[1] == []
    (found, _) = prepared([left, replace(right, box=left.box), *cases[1:]])[1]
    assert "the same picture as" in found.reason


@pytest.mark.parametrize("outline", [((1.0, 1.0), (4.0, 4.0)), ((1.0, 1.0), (float("nan"), 4.0), (2.0, 7.0))])
def test_an_outline_that_is_no_polygon_is_found(tmp_path: Path, outline: tuple[tuple[float, float], ...]) -> None:
    (case,) = write_cases(tmp_path, 1)
    (found,) = prepared([replace(case, outline=outline)], with_masks=True)[1]
    assert (found.kind, found.path) == ("inconsistent", case.path)


def test_masks_of_busi_agree_with_a_reading_by_hand(ultrasound_data: Path) -> None:
    folder = ultrasound_data / "busi/Dataset_BUSI_with_GT/benign"
    cases = []
    for path in sorted(folder.glob("benign (10?).png")):
        masks = sorted(folder.glob(f"{path.stem.replace('(', '[(]')}_mask*.png"))
        cases.append(Case(path.name, path, "benign", masks=tuple(masks)))
    images, findings = prepared(cases, with_masks=True, side=112)
    assert len(cases) == 10
    assert not [finding for finding in stopping(findings) if finding.kind != "inconsistent"]
    place = next(place for place, case in enumerate(images.listing.cases) if case.key == "benign (100).png")
    assert len(images.listing.cases[place].masks) == 2
    parts = [cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE) > 0 for mask in images.listing.cases[place].masks]
    np.testing.assert_array_equal(images.native_mask(place), parts[0] | parts[1])
    assert min(images.image(place).shape) == 112
