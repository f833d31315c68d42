"""The source on real and made objects."""

import numpy as np
import pytest
from made_dicom import KEY, REGION, archive, fan, jpeg, make

from arl_lightning.data.dicom import area
from arl_lightning.data.dicom.deidentify import KEY_VARIABLE
from arl_lightning.data.dicom.header import integer
from arl_lightning.data.dicom.objects import open_object
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.dicom.survey import survey
from arl_lightning.data.shards.sample import Flagged, Rejected, Sample
from arl_lightning.data.sources.dicom import Dicom
from arl_lightning.errors import UserError


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def read(source, *names):
    """Return what each file gives, by its name; of these files alone where some are named."""
    paths = [(source.path_of(unit).name, unit) for unit in source.units()]
    wanted = [(name, unit) for name, unit in paths if not names or name in names]
    return {name: [item for item in source.read(unit) if not isinstance(item, Flagged)] for name, unit in wanted}


# ---------------------------------------------------------------- real objects


REAL = {  # kept: anatomy, size, number of frames; else the reason
    "ExplVR_BigEnd.dcm": area.NOT_SURE,
    "JPGLosslessP14SV1_1s_1f_8b.dcm": ("cardiac", None, 1),
    "OBXXXX1A_rle.dcm": ("other", None, 1),
    "OBXXXX1A_rle_2frame.dcm": ("other", "convex", 1),
    "US1_J2KI.dcm": None,
    "US1_J2KR.dcm": None,
    "US1_UNCR.dcm": None,
    "color-pl.dcm": ("doppler", None, 1),
    "color-px.dcm": ("doppler", None, 1),
    "examples_palette.dcm": area.NOT_SURE,
    "examples_rgb_color.dcm": area.NOT_SURE,
    "examples_ybr_color.dcm": ("cardiac", None, 2),
    "gdcm-US-ALOKA-16.dcm": ("abdominal", None, 1),
}


def test_real_objects_are_kept_or_refused_as_they_should(ultrasound_data):
    found = read(Dicom(ultrasound_data / "dicom"))
    assert sorted(found) == sorted(REAL)
    for name, expected in REAL.items():
        if isinstance(expected, tuple):
            assert all(isinstance(item, Sample) for item in found[name]), name
            assert (found[name][0].anatomy, len(found[name])) == (expected[0], expected[2])
        else:  # a screen full of text, whose header does not tell where the ultrasound is
            assert [type(item) for item in found[name]] == [Rejected]
            assert found[name][0].reason in (area.NOT_SURE, area.TEXT_DETECTED)
            assert expected in (None, found[name][0].reason)


def test_one_real_picture_in_three_encodings_decodes_alike(ultrasound_data):
    pixels = {}
    for name in ("US1_UNCR", "US1_J2KR", "US1_J2KI"):
        with open_object(ultrasound_data / f"dicom/{name}.dcm") as source:
            frames = Frames(source)
            pixels[name] = frames.render(frames.decode(0)).astype(int)
    np.testing.assert_array_equal(pixels["US1_J2KR"], pixels["US1_UNCR"])  # lossless
    assert np.abs(pixels["US1_J2KI"] - pixels["US1_UNCR"]).mean() < 3


def test_one_real_picture_by_plane_and_by_pixel_is_the_same(ultrasound_data):
    found = read(Dicom(ultrasound_data / "dicom"), "color-pl.dcm", "color-px.dcm")
    (plane,), (pixel,) = found.values()
    np.testing.assert_array_equal(plane.image, pixel.image)
    assert plane.image.ndim == 3


def test_lossless_jpeg_and_a_segmented_palette_of_16_bits_decode(ultrasound_data):
    with open_object(ultrasound_data / "dicom/JPGLosslessP14SV1_1s_1f_8b.dcm") as source:
        frames = Frames(source)
        image = frames.render(frames.decode(0))
    assert image.shape == (768, 1024)
    assert (image == 0).mean() > 0.5  # a black screen around the sector
    with open_object(ultrasound_data / "dicom/gdcm-US-ALOKA-16.dcm") as source:
        frames = Frames(source)
        image = frames.render(frames.decode(0))
        assert integer(source.header, "BitsAllocated") == 16
    green = (image[..., 1] > 200) & (image[..., 0] < 50) & (image[..., 2] < 50)
    assert 100 < green.sum() < 5000  # the scanner's green marks; its tissue is grey
    assert np.abs(np.diff(image[100:300, 340:600].astype(int), axis=-1)).mean() < 1


def test_the_corner_text_of_a_real_region_is_cut_off(ultrasound_data):
    name = "JPGLosslessP14SV1_1s_1f_8b.dcm"
    (loose,) = read(Dicom(ultrasound_data / "dicom", tighten=False), name)[name]
    (tight,) = read(Dicom(ultrasound_data / "dicom"), name)[name]
    assert loose.image.shape == (721, 997)
    assert loose.image[40:80, 40:220].max() == 255  # "Asc Ao Diam 3.3 cm"
    assert tight.image.shape[0] < 520
    assert tight.image[:40, :100].max() == 0
    assert tight.spacing_mm == loose.spacing_mm == (0.2548, 0.2548)


def test_real_text_is_refused_by_option(ultrasound_data):
    source = Dicom(ultrasound_data / "dicom", reject_text=True)
    found = read(source, "OBXXXX1A_rle.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm")
    assert [item.reason for item in found["OBXXXX1A_rle.dcm"]] == [area.TEXT_SEEN]
    assert isinstance(found["JPGLosslessP14SV1_1s_1f_8b.dcm"][0], Sample)


# ---------------------------------------------------------------- made ones


def test_an_archive_gives_its_samples_and_its_reasons(tmp_path):
    found = read(Dicom(archive(tmp_path), name="site03"))
    (still,) = found["still"]
    assert (still.anatomy, still.probe, still.spacing_mm, still.source) == ("liver", "convex", (0.2, 0.3), "site03")
    assert (still.video, still.frame) == (None, None)
    assert [item.frame for item in found["cine"]] == [0, 5]  # 10 frames/s sampled at 2
    assert {(item.anatomy, item.probe) for item in found["cine"]} == {("thyroid", "linear")}
    assert len({item.video for item in found["cine"]}) == 1
    assert [item.anatomy for item in found["doppler"]] == ["doppler"]
    reasons = {name: items[0].reason for name, items in found.items() if isinstance(items[0], Rejected)}
    assert reasons == {
        "capture": "secondary capture (option secondary_capture)",
        "ct": "modality CT, not US",
        "empty": "empty file",
        "notes.txt": "not DICOM",
        "locked": "encrypted (CMS envelope)",
        "cut": "truncated",
    }
    names = [item.name for items in found.values() for item in items if isinstance(item, Sample)]
    assert len(names) == len(set(names)) == 4


def test_names_are_stable_and_units_lie_in_order_of_paths(tmp_path):
    source = Dicom(archive(tmp_path))
    assert list(source.units()) == list(source.units())
    paths = [source.path_of(unit).relative_to(tmp_path).as_posix() for unit in source.units()]
    assert paths == sorted(paths)


def test_options_reach_the_reader(tmp_path):
    archive(tmp_path)
    assert isinstance(read(Dicom(tmp_path, secondary_capture=True))["capture"][0], Sample)
    assert len(read(Dicom(tmp_path, fps=1.0))["cine"]) == 1
    assert len(read(Dicom(tmp_path, regions="each"))["doppler"]) == 2
    given = read(Dicom(tmp_path, anatomy="heart"))
    assert given["still"][0].anatomy == "cardiac"
    assert given["doppler"][0].anatomy == "doppler"
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{anatomy: kidney, any: {StudyDescription: [liver]}}]", encoding="utf-8")
    mine = read(Dicom(tmp_path, rules=rules))
    assert (mine["still"][0].anatomy, mine["cine"][0].anatomy) == ("kidney", "other")


def test_a_cine_with_a_damaged_frame_gives_the_frames_before_it(tmp_path):
    frames = np.stack([fan(seed=seed) for seed in range(20)])
    path = make(tmp_path / "in/a", frames, FrameTime="500", SequenceOfUltrasoundRegions=[REGION], **jpeg(frames))
    content = bytearray(path.read_bytes())
    starts = [place for place in range(len(content)) if content[place : place + 3] == b"\xff\xd8\xff"]
    content[starts[3] : starts[3] + 2] = b"xx"
    path.write_bytes(content)
    for tighten in (False, True):
        items = read(Dicom(tmp_path / "in", tighten=tighten))["a"]
        assert [type(item) for item in items] == [Sample, Sample, Sample, Rejected]
        assert items[-1].reason.startswith("frame 3: damaged frame")


def test_a_cine_of_damaged_frames_is_refused(tmp_path):
    frames = np.stack([fan(seed=seed) for seed in range(3)])
    path = make(tmp_path / "in/a", frames, SequenceOfUltrasoundRegions=[REGION], **jpeg(frames))
    path.write_bytes(path.read_bytes().replace(b"\xff\xd8\xff", b"xxx"))
    (item,) = read(Dicom(tmp_path / "in"))["a"]
    assert item.reason.startswith("damaged frame")


def test_the_text_of_a_strange_error_does_not_become_a_reason(tmp_path, monkeypatch):
    make(tmp_path / "in/a", fan(), SequenceOfUltrasoundRegions=[REGION])

    def fail(*_):
        raise ValueError("Quesnel^Ottilie is no number")

    monkeypatch.setattr(Frames, "render", fail)
    source = Dicom(tmp_path / "in")
    assert [item.reason for item in read(source)["a"]] == ["damaged (ValueError)"]
    assert "Quesnel" not in str(survey(source))


def test_colourless_colour_becomes_grey(tmp_path):
    image = np.repeat(fan()[..., None], 3, axis=-1)
    make(tmp_path / "in/a", image, SequenceOfUltrasoundRegions=[REGION])
    assert read(Dicom(tmp_path / "in"))["a"][0].image.ndim == 2


def test_deep_pixels_are_scaled_over_what_is_kept(tmp_path):
    image = fan().astype(np.uint16) * 4  # up to 880 of 65,535
    image[:20] = 65_535  # a white banner above the region
    make(tmp_path / "in/a", image, SequenceOfUltrasoundRegions=[REGION])
    (sample,) = read(Dicom(tmp_path / "in", tighten=False))["a"]
    assert sample.image.max() == 255
    assert np.median(sample.image[sample.image > 0]) > 80


def test_deep_pixels_are_scaled_over_the_sector_alone(tmp_path):
    image = fan().astype(np.uint16) * 4
    make(tmp_path / "in/clean", image, SequenceOfUltrasoundRegions=[REGION])
    image[35:45, 45:55] = 65_535  # a mark in the region's corner, outside of the sector
    make(tmp_path / "in/marked", image, SequenceOfUltrasoundRegions=[REGION])
    found = read(Dicom(tmp_path / "in"))
    np.testing.assert_array_equal(found["marked"][0].image, found["clean"][0].image)
    assert np.median(found["clean"][0].image[found["clean"][0].image > 0]) > 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0.0}, "fps"),
        ({"regions": "all"}, "regions"),
        ({"undetected": "no"}, "undetected"),
        ({"name": ""}, "name"),
        ({"anatomy": "livre"}, "did you mean 'liver'"),
    ],
)
def test_wrong_options_are_refused(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        Dicom(tmp_path, **options)


def test_listing_refuses_at_once(tmp_path):
    with pytest.raises(UserError, match="holds no file"):
        Dicom(tmp_path).units()
    with pytest.raises(UserError, match="no such folder"):
        Dicom(tmp_path / "none").units()
    (tmp_path / "rules.yaml").write_text("rules: [{anatomy: x, any: {codes: [a]}}]", encoding="utf-8")
    with pytest.raises(UserError, match=r"rules\.yaml: rule 1"):
        Dicom(tmp_path, rules=tmp_path / "rules.yaml").units()


def test_a_whole_cine_is_read_with_one_frame_in_memory(tmp_path, monkeypatch):
    frames = np.repeat(fan()[None], 50, axis=0)
    make(tmp_path / "in/a", frames, FrameTime="20", SequenceOfUltrasoundRegions=[REGION])
    decoded = []
    original = Frames.decode
    monkeypatch.setattr(Frames, "decode", lambda self, index: decoded.append(index) or original(self, index))
    source = Dicom(tmp_path / "in", tighten=False)
    items = source.read(next(iter(source.units())))
    next(items)
    # Twelve frames, spread over all of it, are looked at for text.
    assert decoded[:-1] == np.linspace(0, 49, 12).astype(int).tolist()
    assert decoded[-1] == 0
    next(items)
    assert decoded[-1] == 25  # 50 frames/s sampled at 2: nothing between is decoded


def test_text_in_what_is_kept_is_flagged_and_packed_or_refused_on_request(ultrasound_data, tmp_path):
    make(tmp_path / "stated", fan(), SequenceOfUltrasoundRegions=[REGION], BurnedInAnnotation="YES")
    make(tmp_path / "clean", fan(), SequenceOfUltrasoundRegions=[REGION])
    found = {}
    for root, names in ((ultrasound_data / "dicom", ["OBXXXX1A_rle.dcm"]), (tmp_path, ["stated", "clean"])):
        for refuse in (False, True):
            source = Dicom(root, reject_text=refuse)
            for unit in source.units():
                name = source.path_of(unit).name
                if name in names:
                    found[name, refuse] = [(type(item), getattr(item, "reason", "")) for item in source.read(unit)]
    for name, reason in (("OBXXXX1A_rle.dcm", area.TEXT_SEEN), ("stated", area.TEXT_STATED)):
        assert found[name, False] == [(Flagged, reason), (Sample, "")]
        assert found[name, True] == [(Rejected, reason)]
    assert found["clean", False] == found["clean", True] == [(Sample, "")]
