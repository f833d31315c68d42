import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.media import decode_image
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.ddti import Ddti
from arl_lightning.errors import UserError

MARK = (
    "<mark><image>{number}</image><svg>[{{&quot;points&quot;: [{{&quot;x&quot;: 1, &quot;y&quot;: 2}}]}}]</svg></mark>"
)
CASE = (
    "<case><number>{case}</number><age>40</age><sex>F</sex><composition>solid</composition>"
    "<echogenicity /><margins /><calcifications>non</calcifications><tirads>4a</tirads>{marks}</case>"
)


def write_xml(root: Path, case: int, *numbers: int) -> Path:
    marks = "".join(MARK.format(number=number) for number in numbers)
    (root / f"{case}.xml").write_text(CASE.format(case=case, marks=marks))
    return root / f"{case}.xml"


@pytest.fixture
def ddti(tmp_path, speckle) -> Path:
    for case, numbers in {1: (1,), 12: (1, 2), 100: (1,)}.items():
        write_xml(tmp_path, case, *numbers)
        for number in numbers:
            Image.fromarray(speckle(50, 60, seed=case + number)).save(tmp_path / f"{case}_{number}.jpg")
    return tmp_path


def read(source: Ddti) -> tuple[list[Sample], list[Rejected]]:
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def test_the_number_before_the_underscore_is_the_patient(ddti):
    samples, rejected = read(Ddti(ddti))
    assert not rejected
    assert [(sample.name, sample.patient) for sample in samples] == [
        ("100_1.jpg", "100"),
        ("12_1.jpg", "12"),
        ("12_2.jpg", "12"),
        ("1_1.jpg", "1"),
    ]
    assert {(s.source, s.anatomy, s.video, s.frame) for s in samples} == {("ddti", "thyroid", None, None)}


def test_pixels_are_those_of_the_jpeg(tmp_path):
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (50, 1))  # (50, 60), smooth: JPEG keeps it
    Image.fromarray(ramp).save(tmp_path / "7_1.jpg", quality=95)
    (sample,), _ = read(Ddti(tmp_path))
    assert np.abs(sample.image.astype(int) - ramp).max() <= 3
    np.testing.assert_array_equal(sample.image, decode_image(tmp_path / "7_1.jpg"))


@pytest.mark.parametrize("content", ["<case><number>12</number><mark>", "", "not XML", "<case>&nbsp;</case>"])
def test_a_broken_xml_is_reported_and_its_images_are_read(ddti, content):
    (ddti / "12.xml").write_text(content)
    samples, (rejected,) = read(Ddti(ddti))
    assert len(samples) == 4
    assert rejected.path == ddti / "12.xml"
    assert rejected.reason.startswith("XML that cannot be parsed")


def test_images_without_an_xml_or_without_a_mark_are_read(ddti):
    (ddti / "1.xml").unlink()
    write_xml(ddti, 12)
    samples, rejected = read(Ddti(ddti))
    assert (len(samples), rejected) == (4, [])


def test_an_image_that_a_mark_names_and_that_is_not_there_is_reported(ddti):
    write_xml(ddti, 100, 1, 3)
    samples, rejected = read(Ddti(ddti))
    assert len(samples) == 4
    assert rejected == [Rejected(ddti / "100_3.jpg", "named in 100.xml, but missing")]


def test_a_suffix_in_capitals_is_no_missing_image(ddti):
    (ddti / "1_1.jpg").rename(ddti / "1_1.JPG")
    samples, rejected = read(Ddti(ddti))
    assert "1_1.JPG" in {sample.name for sample in samples}
    assert not rejected


def test_a_damaged_image_and_an_odd_name_are_rejected_and_the_rest_is_read(ddti):
    (ddti / "12_1.jpg").write_bytes((ddti / "12_1.jpg").read_bytes()[:700])
    Image.new("L", (60, 50)).save(ddti / "overview.png")
    samples, (damaged, odd) = read(Ddti(ddti))
    assert [sample.name for sample in samples] == ["100_1.jpg", "12_2.jpg", "1_1.jpg"]
    assert damaged.path == ddti / "12_1.jpg"
    assert odd.path == ddti / "overview.png"
    assert "its patient is unknown" in odd.reason


def test_another_layout_is_refused_with_where_to_ask(tmp_path):
    with pytest.raises(UserError, match=r"no such folder.*CIM@LAB"):
        Ddti(tmp_path / "nowhere").units()
    Image.new("L", (60, 50)).save(tmp_path / "0000.PNG")
    with pytest.raises(UserError, match=r"holds no image of DDTI, named <case>_<image>\.jpg.*CIM@LAB"):
        Ddti(tmp_path).units()


def test_it_travels_to_another_process(ddti):
    source = Ddti(ddti)
    assert pickle.loads(pickle.dumps(source)).units() == source.units()  # noqa: S301 (its own bytes)
