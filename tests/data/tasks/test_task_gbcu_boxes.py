"""GBCU's images are cropped to what radiologists drew around the gallbladder."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_task import write_image
from PIL import Image

from arl_lightning.data.tasks.case import Case, Finding
from arl_lightning.data.tasks.check import typed_options, without_damage
from arl_lightning.data.tasks.gbcu import Gbcu
from arl_lightning.data.tasks.images import prepare
from arl_lightning.errors import UserError

NAMES = ("im00001.jpg", "im00002.jpg", "im00003.jpg", "im00004.jpg")
# The release in miniature: one large box an image, lesions' boxes beside it that reach beyond.
ANNOTATED = {
    "im00001.jpg": {"dim": [160, 120], "bbs": [["nml", [40, 30, 100, 70]]]},
    "im00002.jpg": {"dim": [160, 120], "bbs": [["stn", [0, 0, 160, 120]], ["abn", [50.4, 20, 110.4, 100]]]},
    "im00003.jpg": {
        "dim": [160, 120],
        "bbs": [["abn", [20, 20, 60, 60]], ["malg", [1, 1, 9, 9]], ["abn", [40, 30, 120, 70]]],
    },
    "im00004.jpg": {"dim": [160, 120], "bbs": [["abn", [4, 0, 164, 122]]]},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images of 160x120 pixels with their boxes: three for training and one for testing."""
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 256, (120, 160), dtype=np.uint8)
        write_image(tmp_path / "imgs" / name, pixels)
    (tmp_path / "train.txt").write_text("im00001.jpg,0\nim00002.jpg,1\nim00003.jpg,2\n")
    (tmp_path / "test.txt").write_text("im00004.jpg,1\n")
    annotate(tmp_path, {})
    return tmp_path


def annotate(root: Path, changed: dict[str, object]) -> None:
    """Write the boxes, some of them changed; None takes an image's away."""
    entries = {name: entry for name, entry in {**ANNOTATED, **changed}.items() if entry is not None}
    (root / "bbox_annot.json").write_text(json.dumps(entries))


def cropped(root: Path, **options: object) -> tuple[tuple[Case, ...], list[Finding]]:
    listing = Gbcu(root, crop="box", partial=True, **options).listing()  # type: ignore[arg-type]
    return listing.cases, [finding for finding in listing.findings if "released are" not in finding.reason]


def test_images_are_whole_unless_cropping_is_asked_for(root: Path) -> None:
    (root / "bbox_annot.json").unlink()
    assert {case.box for case in Gbcu(root, partial=True).listing().cases} == {None}


def test_the_box_is_the_regions_union_with_its_margin_cut_at_the_image(root: Path) -> None:
    cases, findings = cropped(root)
    assert findings == []
    assert [case.box for case in cases] == [
        (34, 26, 106, 74),  # 60x40: 6 and 4 more on each side
        (44, 12, 116, 108),  # the stone's box does not count; 44.4 and 116.4 are rounded
        (10, 15, 130, 75),  # 20..120 and 20..70 are 100x50
        (0, 0, 160, 120),  # reaches beyond the image: cut
    ]
    assert [case.box for case in cropped(root, margin=0.0)[0]][::3] == [(40, 30, 100, 70), (4, 0, 160, 120)]
    assert cropped(root, margin=1.0)[0][0].box == (0, 0, 160, 110)


def test_what_is_prepared_are_the_pixels_of_the_box(root: Path) -> None:
    listing = Gbcu(root, crop="box", partial=True).listing()
    images, _ = prepare(listing, 500, 1, with_masks=False, show_progress=False)
    whole = np.asarray(Image.open(root / "imgs/im00001.jpg"))
    np.testing.assert_array_equal(images.image(0), whole[26:74, 34:106])
    assert images.native_sizes == {0: (48, 72), 1: (96, 72), 2: (60, 120), 3: (120, 160)}


def test_without_dim_the_files_own_size_counts(root: Path) -> None:
    annotate(root, {"im00004.jpg": {"bbs": ANNOTATED["im00004.jpg"]["bbs"]}})
    cases, findings = cropped(root)
    assert (cases[3].box, findings) == ((0, 0, 160, 120), [])


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (None, "does not name it"),
        ({"dim": [160, 120], "bbs": [["malg", [1, 1, 50, 50]]]}, "has no box labelled nml or abn for it"),
        ({"bbs": []}, "has no box labelled nml or abn for it"),
        ({"bbs": [["nml", [float("nan"), 1, 50, 50]]]}, "has the box [nan, 1, 50, 50] for it, not four numbers"),
        ({"bbs": [["nml", [1, 1, 50, float("inf")]]]}, "has the box [1, 1, 50, inf] for it, not four numbers"),
        ({"bbs": [["nml", [1, 1, 50, 10**400]]]}, "for it, not four numbers"),
        ({"bbs": [["nml", [1, 1, 50]]]}, "has the box [1, 1, 50] for it, not four numbers"),
        ({"bbs": [["nml", None]]}, "has the box None for it, not four numbers"),
        ({"bbs": [["nml", ["1", "1", "50", "50"]]]}, "for it, not four numbers"),
        ({"bbs": [["nml", [50, 1, 50, 60]]]}, "not four numbers with x0 < x1 and y0 < y1"),
        ({"bbs": [["nml", [160, 1, 200, 60]]]}, "has the box 160, 1, 200, 60 for it, outside its 160x120 pixels"),
        ({"bbs": [["nml", [1, -60, 90, 0]]]}, "has the box 1, -60, 90, 0 for it, outside its 160x120 pixels"),
        (
            {"dim": [320, 240], "bbs": [["nml", [1, 1, 90, 90]]]},
            "is for an image of [320, 240] pixels, this has [160, 120]",
        ),
        ({"bbs": [["nml", 1, 2, 3]]}, "describes it in another form than"),
        ({"Gold": [1, 1, 50, 50]}, "describes it in another form than"),
        ([1, 1, 50, 50], "describes it in another form than"),
    ],
)
def test_an_image_without_a_box_to_use_is_found_with_the_fix(root: Path, entry: object, said: str) -> None:
    annotate(root, {"im00002.jpg": entry})
    cases, (found,) = cropped(root)
    assert (found.path, found.kind) == (root / "imgs/im00002.jpg", "inconsistent")
    assert found.reason.startswith("bbox_annot.json ")
    assert said in found.reason
    assert found.reason.endswith("; correct it in bbox_annot.json, or use whole images by --options.crop none")
    assert "\n" not in found.reason
    assert [case.box is None for case in cases] == [False, True, False, False]


def test_what_skip_damaged_leaves_are_cropped_images_alone(root: Path) -> None:
    (root / "train.txt").write_text("im00001.jpg,0\nim00002.jpg,0\nim00003.jpg,1\n")
    write_image(root / "imgs/im00005.jpg", np.zeros((120, 160), np.uint8))
    (root / "test.txt").write_text("im00004.jpg,1\nim00005.jpg,2\n")
    annotate(root, {"im00003.jpg": None, "im00005.jpg": ANNOTATED["im00001.jpg"]})
    listing = Gbcu(root, classes="tumour", crop="box", partial=True).listing()
    left = without_damage(listing, {found.path for found in listing.findings if found.stops})
    assert [case.path.name for case in left.cases] == ["im00001.jpg", "im00002.jpg", "im00004.jpg", "im00005.jpg"]
    assert None not in {case.box for case in left.cases}


def test_a_damaged_image_is_left_to_whoever_decodes_it(root: Path) -> None:
    (root / "imgs/im00002.jpg").write_bytes(b"no image")
    listing = Gbcu(root, crop="box", partial=True).listing()
    assert not [finding for finding in listing.findings if finding.stops]
    found = [each for each in prepare(listing, 64, 1, False, show_progress=False)[1] if each.kind == "unreadable"]
    assert [each.path.name for each in found] == ["im00002.jpg"]


def test_a_missing_file_of_boxes_stops_even_those_who_skip_damage(root: Path) -> None:
    (root / "bbox_annot.json").unlink()
    with pytest.raises(UserError, match=r"bbox_annot\.json: missing; copy it .*IIT Delhi.* --options\.crop none"):
        Gbcu(root, crop="box", partial=True).listing()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be read"),
        (b'{"im00001.jpg": "\xff"}', "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "not of the form"),
    ],
)
def test_a_file_of_boxes_of_another_form_is_refused_in_one_line(root: Path, content: bytes, said: str) -> None:
    (root / "bbox_annot.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"bbox_annot\.json: {said}.*--options\.crop none$"):
        Gbcu(root, crop="box", partial=True).listing()


@pytest.mark.parametrize("margin", [-0.1, 1.5, float("nan")])
def test_a_margin_that_is_no_share_is_refused(root: Path, margin: float) -> None:
    with pytest.raises(UserError, match=r"margin .*: must be from 0 to 1"):
        Gbcu(root, crop="box", margin=margin)


def test_boxes_are_not_for_a_table_and_a_crop_is_one_of_two(root: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.csv: crop box is for the released layout"):
        Gbcu(root, table=root / "mine.csv", crop="box")
    with pytest.raises(UserError, match="crop: 'roi' is unknown; choose from none, box"):
        Gbcu(root, crop="roi")  # type: ignore[arg-type]


def test_the_options_come_from_the_command_line() -> None:
    assert typed_options("gbcu", {"crop": "box", "margin": "0.25"}) == {"crop": "box", "margin": 0.25}
