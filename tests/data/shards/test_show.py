from pathlib import Path

import cv2
import numpy as np
import pytest
from small_corpus import make_item, make_items, write_corpus

from arl_lightning.data.shards.show import draw_sheet, show
from arl_lightning.errors import UserError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three shards of four samples."""
    return write_corpus(tmp_path / "corpus", make_items())


def drawn(monkeypatch: pytest.MonkeyPatch, *arguments, **options) -> tuple[list, object]:
    """Call `show` and return what it drew and its report."""
    seen = []

    def keep(pictures, title):
        seen.append((list(pictures), title))
        return draw_sheet(pictures, title)

    monkeypatch.setattr("arl_lightning.data.shards.show.draw_sheet", keep)
    report = show(*arguments, **options)
    return seen[0], report


@pytest.mark.parametrize("shard", [1, "1", "shard-000001.tar", "shard-000001"])
def test_a_shard_is_found_by_number_and_by_name(corpus, tmp_path, monkeypatch, shard):
    (pictures, title), report = drawn(monkeypatch, corpus, shard, out=tmp_path / "sheet.png")
    assert [picture.key for picture in pictures] == [f"{0xABC0 + index:016x}" for index in range(4, 8)]
    assert title == "corpus/shard-000001.tar"
    assert str(report) == f"shard-000001.tar: 4 of 4 images in {tmp_path / 'sheet.png'}"


def test_no_more_than_asked_for_are_drawn(corpus, tmp_path, monkeypatch):
    (pictures, _), report = drawn(monkeypatch, corpus, 0, 3, tmp_path / "sheet.png")
    assert len(pictures) == report.num_shown == 3


def test_a_split_is_found_by_its_name(tmp_path, monkeypatch):
    write_corpus(tmp_path / "corpus/train", make_items(2))
    write_corpus(tmp_path / "corpus/val", [[make_item(99)]])
    for shard in ("val/shard-000000.tar", 2):
        (pictures, _), _ = drawn(monkeypatch, tmp_path / "corpus", shard, out=tmp_path / "sheet.png")
        assert [picture.key for picture in pictures] == [make_item(99).key]


def test_the_images_are_on_the_sheet_in_their_colours(tmp_path):
    items = []
    for index, colour in enumerate(((0, 0, 255), (0, 255, 0), (255, 255, 255))):  # red, green, white as BGR
        item = make_item(index, (60, 60, 3), "png")
        item.encoded = cv2.imencode(".png", np.full((60, 60, 3), colour, np.uint8))[1].tobytes()
        items.append(item)
    folder = write_corpus(tmp_path / "corpus", [items])
    show(folder, out=tmp_path / "new/sheet.png")
    sheet = cv2.imread(str(tmp_path / "new/sheet.png"))
    centres = []
    for colour in ((0, 0, 255), (0, 255, 0), (255, 255, 255)):
        found = np.argwhere((sheet == colour).all(axis=2))
        assert len(found) > 200 * 200  # 1.4 of 1.5 inches at 200 dots
        centres.append(found[:, 1].mean())
    assert centres == sorted(centres)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_captions_say_anatomy_source_and_size(tmp_path, monkeypatch):
    folder = write_corpus(tmp_path / "corpus", [[make_item(0, (24, 32), anatomy="soft_tissue", source="a_set")]])
    (pictures, title), _ = drawn(monkeypatch, folder, out=tmp_path / "sheet.png")
    texts = [text.get_text() for text in draw_sheet(pictures, title).texts]
    assert texts == ["corpus/shard-000000.tar", "soft_tissue", "a_set  32 x 24"]


def test_an_image_that_does_not_decode_has_its_place_and_says_so(tmp_path, monkeypatch):
    items = make_items(1, 3)[0]
    items[1].encoded = b"no image"
    items[2].encoded = b""
    folder = write_corpus(tmp_path / "corpus", [items])
    (pictures, title), _ = drawn(monkeypatch, folder, out=tmp_path / "sheet.png")
    assert [picture.image is None for picture in pictures] == [False, True, True]
    said = [[text.get_text() for text in axis.texts] for axis in draw_sheet(pictures, title).axes]
    assert said == [[], ["does not decode"], ["does not decode"]]


def test_without_out_the_sheet_is_named_after_the_shard(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show(corpus, 2).out == Path("shard-000002.png")
    assert (tmp_path / "shard-000002.png").is_file()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"shard": 3}, "--shard 3: .* has shards 0 to 2"),
        ({"shard": "²"}, "--shard ²: not in "),  # a digit, but no number
        ({"shard": "9" * 5000}, "--shard 9{20}: .* has shards 0 to 2"),
        ({"shard": "val"}, r"--shard val: not in .*, which has shard-000000\.tar to shard-000002\.tar"),
        ({"num": 0}, "--num 0"),
        ({"num": 1001}, "--num 1001"),
    ],
)
def test_wrong_arguments_are_refused_by_name(corpus, tmp_path, options, named):
    with pytest.raises(UserError, match=named):
        show(corpus, **options, out=tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_a_shard_that_cannot_be_read_is_named(corpus, tmp_path):
    path = corpus / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=rf"shard-000000\.tar: ends .*`arl shards verify {corpus}`"):
        show(corpus, out=tmp_path / "sheet.png")
    path.unlink()
    with pytest.raises(UserError, match=r"shard-000000\.tar: cannot be read \(No such file"):
        show(corpus, out=tmp_path / "sheet.png")


@pytest.mark.parametrize("wrong", [{"source": 5}, {"anatomy": ["lung"]}, {"width": "32"}, {"more": 1}])
def test_a_record_that_does_not_follow_the_schema_is_told(tmp_path, wrong):
    folder = write_corpus(tmp_path / "corpus", [[make_item(0, **wrong)]])
    with pytest.raises(UserError, match=r"shard-000000\.tar: a record does not follow the schema"):
        show(folder, out=tmp_path / "sheet.png")


def test_a_record_without_a_source_is_told(tmp_path):
    item = make_item(0)
    del item.record["source"]
    folder = write_corpus(tmp_path / "corpus", [[item]])
    with pytest.raises(UserError, match=r"shard-000000\.tar: a record does not follow the schema"):
        show(folder, out=tmp_path / "sheet.png")


def test_names_of_any_kind_are_drawn_and_said_in_one_line(tmp_path, capsys):
    folder = write_corpus(tmp_path / "a\nb", [[make_item(0, source="$x_$\n\ud800")]])
    report = show(folder, out=tmp_path / "a\nb.png")
    assert report.out.is_file()
    assert str(report) == rf"shard-000000.tar: 1 of 1 images in {tmp_path}/a\nb.png"


def test_a_place_that_cannot_be_written_is_named(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --out"):
        show(corpus, out=tmp_path / "file/sheet.png")
