import json
from itertools import pairwise
from pathlib import Path

import cv2
import matplotlib.figure
import numpy as np
import pytest
from small_corpus import make_item, make_items, write_corpus

from arl_lightning.data.anatomy import ANATOMIES
from arl_lightning.data.shards.stats import stats
from arl_lightning.data.shards.stats_figure import (
    COLOURS,
    anatomy_colours,
    compact,
    count_edges,
    draw_bars,
    draw_corpus,
    shorten,
)
from arl_lightning.errors import UserError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six images in two shards: 3 of `hearts` (one clip of two, patients p and q), 3 of `mixed` (patient p)."""
    shards = [
        [
            make_item(0, (20, 40), anatomy="cardiac", source="hearts", patient="p", video="v", frame=0, probe="sector"),
            make_item(1, (20, 40), anatomy="cardiac", source="hearts", patient="p", video="v", frame=1, probe="sector"),
            make_item(2, (50, 40), anatomy="cardiac", source="hearts", patient="q", spacing_mm=[0.1, 0.1]),
        ],
        [
            make_item(3, (20, 100), anatomy="liver", source="mixed", patient="p"),
            make_item(4, (30, 40), anatomy="lung", source="mixed"),
            make_item(5, (40, 40), extension="png", anatomy="lung", source="mixed"),
        ],
    ]
    return write_corpus(tmp_path / "corpus", shards)


def test_everything_is_counted(corpus):
    report = stats(corpus, processes=1)
    assert (report.num_shards, report.num_samples) == (2, 6)
    assert list(report.anatomies.items()) == [("cardiac", 3), ("lung", 2), ("liver", 1)]
    assert list(report.sources) == ["hearts", "mixed"]
    hearts, mixed = report.sources.values()
    assert (hearts.images, hearts.anatomies, hearts.patients, hearts.clips) == (3, {"cardiac": 3}, 2, 1)
    assert (mixed.images, mixed.anatomies, mixed.patients, mixed.clips) == (3, {"lung": 2, "liver": 1}, 1, 0)
    assert report.sizes == {(20, 40): 2, (20, 100): 1, (30, 40): 1, (40, 40): 1, (50, 40): 1}
    assert report.probes == {"unknown": 4, "sector": 2}
    assert report.num_spaced == 1


def test_sizes_have_their_mean_and_deviation(corpus):
    report = stats(corpus, processes=1)
    # heights 20, 20, 50, 20, 30, 40: mean 30, variance (100 + 100 + 400 + 100 + 0 + 100) / 6
    assert report.height.mean == pytest.approx(30)
    assert report.height.std == pytest.approx((800 / 6) ** 0.5)
    assert (report.height.minimum, report.height.maximum) == (20, 50)
    # widths 40 five times and 100: mean 50, variance (5 * 100 + 2500) / 6
    assert report.width.mean == pytest.approx(50)
    assert report.width.std == pytest.approx(500**0.5)


def test_one_name_in_two_sources_is_two_patients(corpus):
    report = stats(corpus, processes=1)
    assert (report.patients.number, report.patients.images, report.patients.sizes) == (3, 4, (1, 1, 2))
    assert (report.clips.number, report.clips.images, report.clips.sizes) == (1, 2, (2,))


def test_bytes_are_those_of_images_records_and_tars(corpus):
    report = stats(corpus, processes=1)
    items = [make_item(0, (20, 40)), make_item(1, (20, 40)), make_item(2, (50, 40)), make_item(3, (20, 100))]
    items += [make_item(4, (30, 40)), make_item(5, (40, 40), extension="png")]
    assert report.image_bytes == sum(len(item.encoded) for item in items)
    assert report.tar_bytes == sum(path.stat().st_size for path in corpus.glob("*.tar"))
    assert 6 * 180 < report.record_bytes < 6 * 300


def test_the_table_says_it_all(corpus):
    lines = [" ".join(line.split()) for line in str(stats(corpus, processes=1)).splitlines()]
    assert lines[0].startswith(f"{corpus}: 6 images in 2 shards, ")
    for expected in (
        "cardiac 3 50.0%",
        "hearts 3 50.0% 2 1 cardiac",
        "mixed 3 50.0% 1 - lung, liver",
        "height 30.0 11.5 20 50",
        "width 50.0 22.4 40 100",
        "patients 3, with 1 images in the median and 2 at most; 66.7% of the images name one",
        "clips 1, with 2 images in the median and 2 at most; 33.3% of the images name one",
        "probe unknown 66.7%, sector 33.3%",
        "pixel spacing known for 16.7% of the images",
    ):
        assert expected in lines


def test_many_anatomies_of_a_source_are_told_shortly(tmp_path):
    items = [make_item(index, anatomy=name) for index, name in enumerate(ANATOMIES[:5])]
    table = str(stats(write_corpus(tmp_path / "corpus", [items]), processes=1))
    assert "abdominal, aorta, bladder and 2 more" in table
    assert "patients            none known" in table


def test_two_processes_count_the_same(corpus):
    assert stats(corpus, processes=2) == stats(corpus, processes=1)


def test_splits_are_counted_together(tmp_path):
    shards = make_items()
    write_corpus(tmp_path / "corpus/train", shards[:2])
    write_corpus(tmp_path / "corpus/val", shards[2:])
    assert stats(tmp_path / "corpus", processes=1).num_samples == 12
    assert stats(tmp_path / "corpus/val", processes=1).num_samples == 4


def test_counting_needs_no_image(tmp_path):
    items = [make_item(0), make_item(1)]
    folder = write_corpus(tmp_path / "corpus", [items])
    path = folder / "shard-000000.tar"
    content = path.read_bytes()
    damaged = content.replace(items[0].encoded, bytes(len(items[0].encoded)))
    assert damaged != content
    path.write_bytes(damaged)
    assert stats(folder, processes=1).num_samples == 2


def test_a_shard_that_cannot_be_read_is_named(corpus):
    path = corpus / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=rf"shard-000001\.tar: ends .*`arl shards verify {corpus}`"):
        stats(corpus, processes=1)
    path.unlink()
    with pytest.raises(UserError, match=r"shard-000001\.tar: cannot be read \(No such file"):
        stats(corpus, processes=1)


def test_a_record_that_does_not_follow_the_schema_is_named(tmp_path):
    item = make_item(0)
    del item.record["probe"]
    folder = write_corpus(tmp_path / "corpus", [[item]])
    with pytest.raises(UserError, match=r"shard-000000\.tar: sample 000000000000abc0: its record does not follow"):
        stats(folder, processes=1)


def test_the_files_hold_the_figure_and_all_numbers(corpus, tmp_path):
    report = stats(corpus, tmp_path / "new/out", processes=1)
    assert sorted(path.name for path in (tmp_path / "new/out").iterdir()) == ["stats.json", "stats.png"]
    assert all(str(path) in str(report) for path in report.files)
    content = json.loads((tmp_path / "new/out/stats.json").read_text())
    assert content["anatomies"] == {"cardiac": 3, "lung": 2, "liver": 1}
    assert content["sources"]["mixed"] == {"images": 3, "anatomies": {"lung": 2, "liver": 1}, "patients": 1, "clips": 0}
    assert content["height"]["mean"] == pytest.approx(30)
    assert [20, 40, 2] in content["sizes"]
    assert content["patients"] == {"number": 3, "images": 4, "sizes": [[1, 2], [2, 1]]}
    picture = cv2.imread(str(tmp_path / "new/out/stats.png"))
    assert picture.shape[1] == 2000
    # The bar of the most frequent anatomy is there in its colour (BGR).
    red = [int(COLOURS["cardiac"][place : place + 2], 16) for place in (5, 3, 1)]
    assert (picture == red).all(axis=2).sum() > 5000


def test_a_folder_that_cannot_be_made_is_refused(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --out"):
        stats(corpus, tmp_path / "file/out", processes=1)


def bars(counts: dict[str, int]):
    axis = matplotlib.figure.Figure().subplots()
    draw_bars(axis, counts, [COLOURS["lung"]] * len(counts))
    return axis


def test_bars_are_as_long_as_their_counts_and_say_them():
    axis = bars({"breast": 300, "soft_tissue": 100})
    assert [bar.get_width() for bar in axis.patches] == [300, 100]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["breast", "soft tissue"]
    assert [text.get_text() for text in axis.texts] == ["300  (75.0%)", "100  (25.0%)"]
    assert axis.get_xscale() == "linear"
    assert axis.get_xlim()[0] == 0


def test_counts_far_apart_are_drawn_on_a_logarithmic_scale():
    axis = bars({"cardiac": 2_000_000, "lung": 150})
    assert axis.get_xscale() == "log"
    assert axis.get_xlim()[0] <= 100
    assert axis.texts[1].get_text() == "150  (<0.1%)"


def test_no_text_is_cut_and_no_labels_overlap(corpus):
    figure = draw_corpus(stats(corpus, processes=1))
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    for axis in figure.axes:
        texts = [text for text in (*axis.texts, *axis.get_yticklabels(), axis.title) if text.get_text()]
        boxes = [text.get_window_extent() for text in texts]
        assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
        labels = sorted((text.get_window_extent() for text in axis.get_yticklabels()), key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 for low, high in pairwise(labels))


def test_every_anatomy_has_a_colour_of_its_own_even_of_ones_own_vocabulary():
    colours = anatomy_colours([*ANATOMIES, "other", "knee"])
    assert set(colours) == {*ANATOMIES, "other", "knee"}
    assert len({colours[name] for name in (*ANATOMIES, "other")}) == 17


def test_whole_numbers_have_bins_of_their_own_as_long_as_they_are_small():
    edges = count_edges(100)
    np.testing.assert_array_equal(edges[:5], [0.5, 1.5, 2.5, 3.5, 4.5])
    assert edges[-2] < 100 < edges[-1]
    assert (np.diff(edges) >= 1).all()


def test_numbers_and_names_are_shortened_for_the_eye():
    assert [compact(value) for value in (1, 150, 1500, 250_000, 2_000_000)] == ["1", "150", "1.5k", "250k", "2M"]
    assert shorten("busi") == "busi"
    assert len(shorten("a" * 50)) == 22


@pytest.mark.parametrize("wrong", [{"height": "20"}, {"source": 5}, {"probe": 5}, {"patient": 5}, {"anatomy": None}])
def test_a_record_of_wrong_types_is_named(tmp_path, wrong):
    item = make_item(7, **wrong)
    folder = write_corpus(tmp_path / "corpus", [[item]])
    with pytest.raises(
        UserError, match=rf"shard-000000\.tar: sample {item.key}: its record does not follow the schema"
    ):
        stats(folder, processes=1)


def test_names_break_no_line_of_the_table(tmp_path):
    whole = write_corpus(tmp_path / "plain", [[make_item(0, probe="p")]])
    broken = write_corpus(tmp_path / "a\nb", [[make_item(0, source="s\nt", anatomy="lung\n", probe="p\n")]])
    table = str(stats(broken, processes=1))
    assert table.count("\n") == str(stats(whole, processes=1)).count("\n")
    assert all(name in table for name in (r"a\nb", r"s\nt", r"lung\n", r"p\n"))
