from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from arl_lightning.downstream.overlays import (
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    Panel,
    choose_examples,
    draw_outline,
    draw_panel,
    write_sheet,
)


def axes() -> Axes:
    return Figure().subplots()


def outlines(drawn: Axes) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of everything that was outlined, in order."""
    boxes = []
    for collection in drawn.collections:
        vertices = np.concatenate([path.vertices for path in collection.get_paths()])
        boxes.append((*vertices.min(0).tolist(), *vertices.max(0).tolist()))
    return boxes


def panel(height: int, width: int, name: str = "benign (1).png", dice: float = 0.5) -> Panel:
    draw = np.random.default_rng(height)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1
    return Panel(name, draw.integers(0, 256, (height, width), np.uint8), mask, np.roll(mask, 3, 1), {"lesion": dice})


def test_an_outline_runs_along_the_edges_of_the_pixels():
    mask = np.zeros((10, 20), np.uint8)
    mask[2:6, 3:9] = 1
    drawn = axes()
    draw_outline(drawn, mask, (10, 20), "red", "solid")
    assert outlines(drawn) == [(3, 2, 9, 6)]


def test_a_mask_of_another_resolution_lies_on_the_same_place():
    mask = np.zeros((5, 10), np.uint8)
    mask[1:3, 2:5] = 1
    drawn = axes()
    draw_outline(drawn, mask, (20, 20), "red", "solid")
    assert outlines(drawn) == [(4, 4, 10, 12)]


def test_an_outline_is_closed_at_the_images_edge():
    drawn = axes()
    draw_outline(drawn, np.ones((6, 8), np.uint8), (6, 8), "red", "solid")
    assert outlines(drawn) == [(0, 0, 8, 6)]


def test_each_structure_has_an_outline_and_an_empty_mask_has_none():
    mask = np.zeros((10, 20), np.uint8)
    mask[2:6, 3:9], mask[2:6, 9:12] = 1, 2
    drawn = axes()
    draw_outline(drawn, mask, (10, 20), "red", "solid")
    draw_outline(drawn, np.zeros((10, 20), np.uint8), (10, 20), "red", "solid")
    assert outlines(drawn) == [(3, 2, 9, 6), (9, 2, 12, 6)]


def test_truth_and_prediction_have_their_colours_and_the_score_stands_on_the_image():
    drawn = axes()
    draw_panel(drawn, panel(40, 60, dice=0.784))
    colours = [to_hex(collection.get_edgecolor()[0]) for collection in drawn.collections]
    assert colours == [TRUTH_COLOUR, PREDICTION_COLOUR]
    assert outlines(drawn) == [(15, 10, 30, 20), (18, 10, 33, 20)]
    assert [text.get_text() for text in drawn.texts] == ["Dice 0.78"]
    assert drawn.get_title() == "benign (1).png"


def test_several_structures_are_named_and_a_long_name_keeps_its_end():
    drawn = axes()
    several = panel(40, 60, name="Cardiac-Acquisitions/test/images/patient0412_4CH_ED.jpg")
    draw_panel(
        drawn, Panel(several.name, several.image, several.truth, several.prediction, {"cavity": 0.9, "wall": 0.125})
    )
    assert drawn.texts[0].get_text() == "Dice cavity 0.90, wall 0.12"
    assert drawn.get_title() == "…es/patient0412_4CH_ED.jpg"


def test_examples_are_the_worst_the_middle_and_the_best():
    dice = [0.5, 0.1, 0.9, 0.2, 0.7, 0.6, 0.3, 0.8, 0.4]
    assert choose_examples(dice, 2) == {"worst": [1, 3], "median": [8, 0], "best": [7, 2]}
    assert choose_examples(dice, 1) == {"worst": [1], "median": [0], "best": [2]}


@pytest.mark.parametrize("num_images", range(1, 12))
@pytest.mark.parametrize("num_each", [1, 2, 3])
def test_no_example_is_shown_twice(num_images, num_each):
    dice = np.random.default_rng(num_images).permutation(num_images) / num_images
    chosen = choose_examples(dice.tolist(), num_each)
    places = [place for kind in ("worst", "median", "best") for place in chosen[kind]]
    assert len(places) == len(set(places)) == (min(num_each, num_images // 3) * 3 or num_images)
    scores = [dice[place] for place in places]
    assert scores == sorted(scores)


def test_equal_scores_are_told_apart_by_their_places():
    assert choose_examples([0.5] * 3, 1) == {"worst": [0], "median": [1], "best": [2]}


def test_a_sheet_holds_images_of_different_sizes(tmp_path: Path):
    path = tmp_path / "figures/overlays.png"
    rows = {"worst": [panel(50, 80), panel(90, 40)], "median": [], "best": [panel(64, 64)]}
    write_sheet(rows, path, "lesions of 3 images")
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    for colour in (TRUTH_COLOUR, PREDICTION_COLOUR):
        assert (pixels == list(bytes.fromhex(colour[1:]))).all(1).sum() > 100
    assert [each.name for each in path.parent.iterdir()] == ["overlays.png"]  # nothing temporary is left


def test_a_sheet_without_images_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="needs a panel"):
        write_sheet({"worst": []}, tmp_path / "sheet.png")
