from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from arl_lightning.data.tasks.case import Listing
from arl_lightning.data.tasks.table import table_listing
from arl_lightning.errors import UserError

Tabulate = Callable[..., Listing]


@pytest.fixture
def tabulate(tmp_path: Path) -> Tabulate:
    """Writes a table beside a.png, b.png, c.png, a_mask.png and clip.avi, none of which is decoded, and lists it."""
    for name in ("a.png", "b.png", "c.png", "a_mask.png", "a_mask_1.png"):
        Image.new("L", (40, 40)).save(tmp_path / name)
    (tmp_path / "clip.avi").touch()

    def write(text: str, root: Path = Path(), encoding: str = "utf-8", **kwargs) -> Listing:
        table = tmp_path / "labels.csv"
        table.write_text(text, encoding=encoding)
        options = {"classes": None, "positive": None, "structures": ()} | kwargs
        return table_listing(table, root, where="ask the author", **options)

    return write


def reasons(listing: Listing) -> list[str]:
    return [finding.reason for finding in listing.findings]


def test_every_column_reaches_its_case_whatever_their_order_and_case(tabulate: Tabulate, tmp_path: Path) -> None:
    listing = tabulate(
        "\ufeffSplit, Label ,patient,site,image,mask\n"
        "validation,tumour,P2,x,b.png,\n\ntraining,cyst,P1,x,./a.png,a_mask.png; a_mask_1.png\ntest,cyst,P3,x,c.png,\n",
        structures=("lesion",),
    )
    assert reasons(listing) == []
    assert listing.classes == ("cyst", "tumour")
    assert [(case.key, case.label, case.patient, case.split) for case in listing.cases] == [
        ("a.png", "cyst", "P1", "train"),
        ("b.png", "tumour", "P2", "val"),
        ("c.png", "cyst", "P3", "test"),
    ]
    assert listing.cases[0].masks == (tmp_path / "a_mask.png", tmp_path / "a_mask_1.png")
    assert not listing.cases[1].has_mask
    assert listing.cases[2].path == tmp_path / "c.png"


def test_paths_start_from_the_root_or_are_absolute(tabulate: Tabulate, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Image.new("L", (40, 40)).save(tmp_path / "deep/d.png")
    listing = tabulate(f"image,label\nd.png,x\n{tmp_path / 'a.png'},y\n", root=tmp_path / "deep")
    assert [case.key for case in listing.cases] == [(tmp_path / "a.png").as_posix(), "d.png"]
    assert [case.path for case in listing.cases] == [tmp_path / "a.png", tmp_path / "deep/d.png"]


def test_labels_take_the_spelling_of_a_given_vocabulary(tabulate: Tabulate) -> None:
    listing = tabulate(
        "image,label\na.png,Malignant\nb.png,BENIGN\n", classes=("malignant", "benign"), positive="malignant"
    )
    assert [case.label for case in listing.cases] == ["malignant", "benign"]
    assert listing.classes == ("malignant", "benign")
    assert listing.positive == "malignant"


def test_masks_alone_make_a_listing_without_classes(tabulate: Tabulate) -> None:
    listing = tabulate("image,mask\na.png,a_mask.png\nb.png,\n", structures=("ventricle",))
    assert (listing.classes, listing.structures) == ((), ("ventricle",))
    assert [case.key for case in listing.cases] == ["a.png"]
    assert reasons(listing) == ["line 3, column mask: empty; fill it in or delete the row"]


def test_frames_of_a_clip_are_cases_of_one_video(tabulate: Tabulate) -> None:
    listing = tabulate(
        "image,label,video,frame\nclip.avi,x,,4\nclip.avi,x,,12\na.png,y,other clip,7\nclip.avi,x,,1.5\nclip.avi,y,,\n"
    )
    assert [(case.key, case.video, case.frame) for case in listing.cases] == [
        ("a.png", "other clip", None),  # a frame that was written out is an image file
        ("clip.avi#12", "clip.avi", 12),
        ("clip.avi#4", "clip.avi", 4),
    ]
    assert reasons(listing) == [
        "line 5, column frame: '1.5' is no index; give a whole number from 0",
        "line 6, column frame: empty, though clip.avi is a clip; say which frame to use, from 0",
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("b.png,,P,train", "line 3, column label: empty; fill it in or delete the row"),
        (",cyst,P,train", "line 3, column image: empty; fill it in or delete the row"),
        ("b.png,NaN,P,train", "line 3, column label: 'NaN' is no value; fill it in, or leave the cell empty"),
        ("b.png,cyst,None,train", "line 3, column patient: 'None' is no value; fill it in, or leave the cell empty"),
        ("b.png,cist,P,train", "line 3, column label: 'cist' is no class; did you mean 'cyst'?"),
        ("b.png,??,P,train", "line 3, column label: '??' is no class; use cyst, tumour"),
        ("b.png,cyst,P,fold1", "line 3, column split: 'fold1' is no part; use train, val or test"),
        ("a.png,cyst,P,train", "line 3, column image: a.png stands in line 2 too; delete one of them"),
        ("b.png,cyst,P,train,,x", "line 3: has more fields than columns; quote a text that holds a comma"),
        ("b.png", "line 3, column label: empty; fill it in or delete the row"),
        ("b.png,cyst,P,", "column split: empty in 1 row of 3, first in line 3; fill it for every row or for none"),
        ("b.png,cyst,,train", "column patient: empty in 1 row of 3, first in line 3; each of these images counts as"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_line_and_column(
    tabulate: Tabulate, tmp_path: Path, row: str, reason: str
) -> None:
    text = f"image,label,patient,split\na.png,cyst,P1,train\n{row}\nc.png,tumour,P2,test\n"
    listing = tabulate(text, classes=("cyst", "tumour"))
    assert [found for found in reasons(listing) if found.startswith(reason)], reasons(listing)
    assert {"a.png", "c.png"} <= {case.key for case in listing.cases}
    assert listing.findings[0].stops == ("patient: empty" not in reason)
    assert listing.findings[0].whole == reason.startswith("column split")  # no row can be left out to mend it
    assert listing.source == tmp_path / "labels.csv"


def test_a_stray_quote_is_named_by_the_line_that_holds_it(tabulate: Tabulate) -> None:
    listing = tabulate('image,label\n\na.png,cyst\nb.png,"tumour\nc.png,cyst\na.png,"\nc.png,other\n')
    assert reasons(listing) == ["line 4, column label: a quote that is not closed, or a line break; correct it"]
    assert listing.classes == ("cyst", "other")
    with pytest.raises(UserError, match=r"labels\.csv: .*\(line 3: a quote that is not closed\)"):
        tabulate('image,label\na.png,cyst\nb.png,"tumour\nc.png,cyst\n')
    with pytest.raises(UserError, match=r"labels\.csv: .*\(line 2: ',' expected after '\"'\)"):
        tabulate('image,label\na.png,"cyst" tumour\n')


def test_lines_are_counted_from_where_a_row_begins(tabulate: Tabulate) -> None:
    listing = tabulate('image,label,remark\na.png,x,"two\nlines"\nb.png,,"two\nlines"\nc.png,y,\n')
    assert reasons(listing) == ["line 4, column label: empty; fill it in or delete the row"]


def test_a_name_that_the_system_refuses_is_found_in_its_line(tabulate: Tabulate, tmp_path: Path) -> None:
    long = "n" * 300 + ".png"
    listing = tabulate(f"image,label,mask\na.png,x,{long}\n{long},y,\nc.png,y,\n", structures=("lesion",))
    assert [(found.path.name, found.kind) for found in listing.findings] == [(long, "unreadable")] * 2
    refused = "File name too long; correct the name, or grant access to it"
    assert reasons(listing) == [
        f"named in labels.csv, line 2, column mask: {refused}",
        f"named in labels.csv, line 3, column image: {refused}",
    ]
    assert [case.key for case in listing.cases] == ["c.png"]


def test_a_frame_of_thousands_of_digits_is_no_index(tabulate: Tabulate) -> None:
    listing = tabulate(f"image,label,frame\nclip.avi,x,{'1' * 5000}\nclip.avi,y,999999999\na.png,x,\n")
    assert reasons(listing)[0].startswith("line 2, column frame: '1111")
    assert [case.key for case in listing.cases] == ["a.png", "clip.avi#999999999"]


def test_a_table_that_must_not_be_read_is_refused(
    tabulate: Tabulate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "labels.csv"
    monkeypatch.setattr("os.access", lambda path, mode: path != closed)
    with pytest.raises(UserError, match=r"labels\.csv: must not be read; grant access to it"):
        tabulate("image,label\na.png,x\nb.png,y\n")
    closed = tmp_path
    with pytest.raises(UserError, match=rf"^{tmp_path}: must not be read; grant access to it"):
        tabulate("image,label\na.png,x\nb.png,y\n")


def test_a_missing_file_is_a_finding_about_that_file(tabulate: Tabulate, tmp_path: Path) -> None:
    listing = tabulate("image,label,mask\na.png,x,lost.png\nlost/b.png,y,\nc.png,x,\n", structures=("lesion",))
    assert [(found.path, found.kind) for found in listing.findings] == [
        (tmp_path / "lost.png", "missing"),
        (tmp_path / "lost/b.png", "missing"),
    ]
    assert reasons(listing)[1] == "named in labels.csv, line 3, column image; copy the file there or correct the row"
    assert [case.key for case in listing.cases] == ["c.png"]


def test_spellings_of_one_class_and_a_single_class_are_found(tabulate: Tabulate) -> None:
    assert reasons(tabulate("image,label\na.png,Cyst\nb.png,cyst\nc.png,x\n")) == [
        "column label: 'Cyst' and 'cyst' differ in case only; use one of them"
    ]
    assert "'x' is the only class" in reasons(tabulate("image,label\na.png,x\nb.png,x\n"))[0]
    for text in ("image,label\na.png,Cyst\nb.png,cyst\n", "image,label\na.png,x\n"):
        assert all(found.stops and found.whole for found in tabulate(text).findings)
    only = "image,label,mask\na.png,x,a_mask.png\nb.png,x,a_mask_1.png\n"
    assert [found.kind for found in tabulate(only, structures=("lesion",)).findings] == ["note"]


def test_masks_of_no_named_structure_are_said_to_be_left_out(tabulate: Tabulate) -> None:
    listing = tabulate("image,label,mask\na.png,x,a_mask.png\nb.png,y,\n")
    assert [finding.kind for finding in listing.findings] == ["note"]
    assert not any(case.has_mask for case in listing.cases)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"labels.csv: empty; write a header"),
        ("image,label\n", r"labels.csv: has a header but no rows"),
        ("image;label\na.png;x\n", r"has no column 'image', only image;label; .* with commas between"),
        ("image,class\na.png,x\n", r"has no column 'label', only image, class"),
        ("image,mask\na.png,a_mask.png\n", r"no column 'label', .*, or name the structures that its masks show"),
        ("image,label,label\na.png,x,y\n", r"has two columns 'label'"),
        ("image,label\nq/a.png,x\nq/b.png,y\n", r"none of the files it names \(2\) is below .*--root names"),
    ],
)
def test_a_table_of_no_use_is_refused(tabulate: Tabulate, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tabulate(text)


def test_a_table_that_is_not_there_or_no_utf8_is_refused(tabulate: Tabulate, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels\.csv: no table of comma-separated UTF-8 text .*save it so"):
        tabulate("image,label\nä.png,x\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"lost\.csv: no such table; .*\(ask the author\)"):
        table_listing(tmp_path / "lost.csv", Path(), None, None, (), "ask the author")
    with pytest.raises(UserError, match=r"lost: no such folder; --root names"):
        tabulate("image,label\na.png,x\n", root=tmp_path / "lost")


def test_the_positive_class_is_one_of_two(tabulate: Tabulate) -> None:
    with pytest.raises(UserError, match=r"positive 'z': .*labels\.csv has x, y; name one of them"):
        tabulate("image,label\na.png,x\nb.png,y\n", positive="z")
    with pytest.raises(UserError, match=r"has x, y, z; leave it out"):
        tabulate("image,label\na.png,x\nb.png,y\nc.png,z\n", positive="z")
