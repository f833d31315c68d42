"""Decoded pixels against arrays made by hand, for each encoding that can be made here, and the memory it takes."""

import io
import tracemalloc

import numpy as np
import pytest
from made_dicom import jpeg, make
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from arl_lightning.data.dicom import pixels
from arl_lightning.data.dicom.decoding import decode_frame
from arl_lightning.data.dicom.objects import open_object
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.media import UnreadableError

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
LOSSLESS = (*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless)

GREY_CINE = np.random.default_rng(0).integers(0, 256, (3, 41, 53), dtype=np.uint8)  # odd sizes: frames of odd length
COLOUR_CINE = np.random.default_rng(1).integers(0, 256, (3, 40, 53, 3), dtype=np.uint8)
DEEP = np.random.default_rng(2).integers(0, 4096, (40, 48), dtype=np.uint16)


def rendered(path, index=0):
    with open_object(path) as source:
        frames = Frames(source)
        return frames.render(frames.decode(index))


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_grey_frames_come_back_as_they_were(syntax, tmp_path):
    path = make(tmp_path / "a.dcm", GREY_CINE, syntax)
    for index in (2, 0, 1):
        np.testing.assert_array_equal(rendered(path, index), GREY_CINE[index])


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_colour_frames_come_back_as_they_were(syntax, tmp_path):
    path = make(tmp_path / "a.dcm", COLOUR_CINE, syntax)
    for index in (2, 0, 1):
        np.testing.assert_array_equal(rendered(path, index), COLOUR_CINE[index])


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_twelve_bits_are_scaled_over_their_own_range(syntax, tmp_path):
    path = make(tmp_path / "a.dcm", DEEP, syntax, BitsStored=12)
    low, high = int(DEEP.min()), int(DEEP.max())
    expected = np.rint((DEEP.astype(float) - low) * 255 / (high - low))
    np.testing.assert_array_equal(rendered(path), expected)


@pytest.mark.parametrize("syntax", [JPEGLSNearLossless, JPEG2000])
def test_lossy_frames_come_back_nearly_as_they_were(syntax, tmp_path):
    options = {"jls_error": 2} if syntax == JPEGLSNearLossless else {"j2k_psnr": [50]}
    smooth = np.add.outer(np.arange(64), 2 * np.arange(64) + 30).astype(np.uint8)
    path = make(tmp_path / "a.dcm", smooth)
    data = dcmread(path)
    plugin = "pyjpegls" if syntax == JPEGLSNearLossless else "pylibjpeg"
    data.compress(syntax, generate_instance_uid=False, encoding_plugin=plugin, **options)
    data.save_as(path)
    error = np.abs(rendered(path).astype(int) - smooth)
    assert error.mean() <= 2
    assert error.max() <= 10


def smooth_colour():
    ramp = np.linspace(0, 1, 64)
    channels = [np.outer(ramp, ramp), np.outer(1 - ramp, ramp), np.outer(ramp, 1 - ramp)]
    return (np.stack(channels, axis=-1) * 200 + 20).astype(np.uint8)


@pytest.mark.parametrize(("photometric", "subsampling"), [("YBR_FULL_422", "4:2:2"), ("YBR_FULL", "4:4:4")])
def test_jpeg_baseline_colour_becomes_rgb(photometric, subsampling, tmp_path):
    image = smooth_colour()
    path = make(
        tmp_path / "a.dcm", image, PhotometricInterpretation=photometric, **jpeg([image], subsampling=subsampling)
    )
    assert np.abs(rendered(path).astype(int) - image).max() <= 6


def test_jpeg_baseline_grey_is_what_pillow_decodes(tmp_path):
    image = smooth_colour()[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    path = make(tmp_path / "a.dcm", image, **jpeg([image]))
    np.testing.assert_array_equal(rendered(path), np.asarray(Image.open(buffer)))


def test_frames_in_several_fragments_are_told_apart(tmp_path):
    images = [smooth_colour()[..., channel] for channel in range(3)]
    single = [rendered(make(tmp_path / "one.dcm", image, **jpeg([image]))) for image in images]
    for has_bot in (True, False):
        attributes = jpeg(images)
        encoded = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=95)
            encoded.append(buffer.getvalue())
        attributes["PixelData"] = encapsulate(encoded, fragments_per_frame=3, has_bot=has_bot)
        path = make(tmp_path / "many.dcm", np.stack(images), **attributes)
        for index in range(3):
            np.testing.assert_array_equal(rendered(path, index), single[index])


def test_a_still_in_several_fragments_is_joined(tmp_path):
    image = smooth_colour()[..., 0]
    whole = rendered(make(tmp_path / "one.dcm", image, **jpeg([image])))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    for has_bot in (True, False):
        data = encapsulate([buffer.getvalue()], fragments_per_frame=4, has_bot=has_bot)
        path = make(tmp_path / "many.dcm", image, JPEGBaseline8Bit, PixelData=data)
        np.testing.assert_array_equal(rendered(path), whole)


def test_frames_are_found_without_a_table_of_offsets(tmp_path):
    images = np.stack([np.full((40, 40), level, np.uint8) for level in (10, 100, 200)])
    attributes = jpeg(images)
    buffers = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95)
        buffers.append(buffer.getvalue())
    attributes["PixelData"] = encapsulate(buffers, has_bot=False)
    path = make(tmp_path / "a.dcm", images, **attributes)
    assert [int(rendered(path, index)[0, 0]) for index in (2, 1, 0)] == [200, 100, 10]


def test_eight_bits_in_big_endian_words_are_swapped_back(tmp_path):
    image = GREY_CINE[:, :, :52]
    swapped = np.ascontiguousarray(image).view(">u2").astype("<u2").tobytes()
    data = dcmread(make(tmp_path / "a.dcm", np.ascontiguousarray(image), ExplicitVRBigEndian, PixelData=swapped))
    data["PixelData"].VR = "OW"
    data.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(rendered(tmp_path / "a.dcm", 1), image[1])


def test_monochrome1_is_inverted(tmp_path):
    path = make(tmp_path / "a.dcm", GREY_CINE[0], PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(rendered(path), 255 - GREY_CINE[0])


def test_planes_and_pixels_give_the_same_picture(tmp_path):
    image = COLOUR_CINE[0]
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    data = {"PlanarConfiguration": 1, "PixelData": planes.tobytes()}
    np.testing.assert_array_equal(rendered(make(tmp_path / "a.dcm", image, **data)), image)


# Full range YCbCr of PS3.3 C.7.6.3.1.2 worked out by hand: (Y, Cb, Cr) -> RGB.
@pytest.mark.parametrize(
    ("ybr", "rgb"),
    [
        ((128, 128, 128), (128, 128, 128)),
        ((76, 85, 255), (254, 0, 0)),  # red: 76 + 1.402 * 127 = 254.05
        ((149, 43, 21), (0, 254, 0)),  # green: 149 + 0.344136 * 85 + 0.714136 * 107 = 254.66
    ],
)
def test_ybr_full_becomes_rgb(ybr, rgb, tmp_path):
    image = np.broadcast_to(np.uint8(ybr), (40, 40, 3))
    found = rendered(make(tmp_path / "a.dcm", image, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(found[7, 9].astype(int) - rgb).max() <= 1


@pytest.mark.parametrize("syntax", NATIVE)
def test_uncompressed_422_is_right_in_every_frame(syntax, tmp_path):
    luma = np.random.default_rng(3).integers(0, 256, (3, 40, 48), dtype=np.uint8)
    pairs = np.full((3, 40, 24, 4), 128, np.uint8)  # Y1 Y2 Cb Cr; neutral chroma: RGB is luma
    pairs[..., 0], pairs[..., 1] = luma[..., ::2], luma[..., 1::2]
    shape = np.zeros((3, 40, 48, 3), np.uint8)
    path = make(tmp_path / "a.dcm", shape, syntax, PhotometricInterpretation="YBR_FULL_422", PixelData=pairs.tobytes())
    for index in range(3):
        np.testing.assert_array_equal(rendered(path, index), np.repeat(luma[index][..., None], 3, axis=-1))


def test_the_partial_range_is_spread(tmp_path):
    pairs = np.full((40, 20, 4), 128, np.uint8)
    pairs[..., 0], pairs[..., 1] = 16, 235  # black and white of the partial range
    path = make(
        tmp_path / "a.dcm", np.zeros((40, 40, 3), np.uint8),
        PhotometricInterpretation="YBR_PARTIAL_422", PixelData=pairs.tobytes(),
    )  # fmt: skip
    assert rendered(path)[3, :2].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(("photometric", "lossless"), [("YBR_RCT", True), ("YBR_ICT", False)])
def test_jpeg_2000_colour_transforms_become_rgb(photometric, lossless, tmp_path):
    image = smooth_colour()
    options = {} if lossless else {"signal_noise_ratios": [55]}
    stream = encode_array(image, photometric_interpretation=1, use_mct=True, codec_format=0, **options)
    path = make(
        tmp_path / "a.dcm", image, JPEG2000Lossless if lossless else JPEG2000,
        PhotometricInterpretation=photometric, PixelData=encapsulate([bytes(stream)]),
    )  # fmt: skip
    assert np.abs(rendered(path).astype(int) - image).max() <= (0 if lossless else 8)


def palette(bits, entries, first=0):
    """Red rises, green falls, blue is constant; 16-bit entries fill their range."""
    scale = 257 if bits == 16 else 1
    tables = np.arange(entries) * scale, np.arange(entries)[::-1] * scale, np.full(entries, 7) * scale
    attributes = {}
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [entries, first, bits]
        attributes[f"{colour}PaletteColorLookupTableData"] = table.astype(
            np.uint16 if bits == 16 else np.uint8
        ).tobytes()
    return attributes | {"PhotometricInterpretation": "PALETTE COLOR"}


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_looked_up(bits, tmp_path):
    image = GREY_CINE[0]
    found = rendered(make(tmp_path / "a.dcm", image, **palette(bits, 256)))
    expected = np.stack([image, 255 - image, np.full_like(image, 7)], axis=-1)
    np.testing.assert_array_equal(found, expected)


def test_a_palette_of_16_bits_that_fills_8_of_them_is_not_black(tmp_path):
    attributes = palette(16, 256)
    for colour in ("Red", "Green", "Blue"):
        table = np.frombuffer(attributes[f"{colour}PaletteColorLookupTableData"], np.uint16) // 257
        attributes[f"{colour}PaletteColorLookupTableData"] = table.astype(np.uint16).tobytes()
    image = GREY_CINE[0]
    np.testing.assert_array_equal(rendered(make(tmp_path / "a.dcm", image, **attributes))[..., 0], image)


def test_a_palette_begins_at_its_first_entry(tmp_path):
    image = np.full((40, 40), 110, np.uint8)
    found = rendered(make(tmp_path / "a.dcm", image, **palette(8, 64, first=100)))
    assert found[0, 0].tolist() == [10, 53, 7]


def test_a_window_maps_deep_greys(tmp_path):
    # Linear window, PS3.3 C.11.2.1.2.1: centre 100.5, width 101 -> 50 is black, 150 white, 100 the middle.
    image = np.zeros((40, 40), np.uint16)
    image[0, :5] = 0, 50, 100, 150, 4000
    path = make(tmp_path / "a.dcm", image, WindowCenter="100.5", WindowWidth="101")
    assert rendered(path)[0, :5].tolist() == [0, 0, 128, 255, 255]


def test_signed_greys_go_through_their_window(tmp_path):
    image = np.zeros((40, 40), np.int16)
    image[0, :4] = -2000, -1000, 0, 1000
    path = make(tmp_path / "a.dcm", image, WindowCenter="0.5", WindowWidth="2001")
    assert rendered(path)[0, :4].tolist() == [0, 0, 128, 255]


def test_signed_bytes_are_mapped_alike_in_all_frames(tmp_path):
    image = np.full((2, 40, 40), 40, np.int8)
    image[1, 0, :3] = -128, 0, 127
    path = make(tmp_path / "a.dcm", image)
    assert rendered(path, 0)[1, 1] == rendered(path, 1)[1, 1] == 168
    assert rendered(path, 1)[0, :3].tolist() == [0, 128, 255]


def test_six_bits_are_spread_over_eight(tmp_path):
    image = np.zeros((40, 40), np.uint8)
    image[0, :4] = 0, 1, 32, 63  # times 255 / 63
    assert rendered(make(tmp_path / "a.dcm", image, BitsStored=6))[0, :4].tolist() == [0, 4, 130, 255]
    inverted = make(tmp_path / "b.dcm", image, BitsStored=6, PhotometricInterpretation="MONOCHROME1")
    assert rendered(inverted)[0, :4].tolist() == [255, 251, 125, 0]


def test_deep_greys_are_spread_over_the_pixels_that_are_kept(tmp_path):
    image = np.full((40, 40), 150, np.uint16)
    image[0, :4] = 50, 102, 250, 60_000
    mask = np.ones((40, 40), bool)
    mask[0, 3] = False
    with open_object(make(tmp_path / "a.dcm", image)) as source:
        frames = Frames(source)
        found = frames.render(frames.decode(0), mask)
    assert found[0, :3].tolist() == [0, 66, 255]  # 52 / 200 * 255 = 66.3


def test_a_palette_has_no_entry_beyond_its_last(tmp_path):
    with open_object(make(tmp_path / "a.dcm", GREY_CINE[0], **palette(8, 256))) as source:
        found = Frames(source).render(np.array([[-1, 0, 255, 300]], np.int16))
    assert found[0, :, 0].tolist() == [0, 0, 255, 255]


def test_deep_monochrome1_is_inverted_after_its_window(tmp_path):
    image = np.full((40, 40), 50, np.uint16)
    attributes = {"WindowCenter": "100.5", "WindowWidth": "101", "PhotometricInterpretation": "MONOCHROME1"}
    assert rendered(make(tmp_path / "a.dcm", image, **attributes))[0, 0] == 255


def test_rescaling_comes_before_the_window(tmp_path):
    image = np.full((40, 40), 50, np.uint16)
    path = make(
        tmp_path / "a.dcm", image, WindowCenter="100.5", WindowWidth="101", RescaleSlope="2", RescaleIntercept="50"
    )
    assert rendered(path)[0, 0] == 255


def test_overlay_bits_above_the_stored_ones_are_dropped(tmp_path):
    image = np.full((40, 40), 0x0005, np.uint16)
    image[0, 0] |= 0x8000  # an overlay of 1993: text in an unused bit
    image[1, 1] = 0x0F05
    found = rendered(make(tmp_path / "a.dcm", image, BitsStored=12))
    assert found[0, 0] == found[0, 1] == 0
    assert found[1, 1] == 255


def test_a_long_cine_is_never_whole_in_memory(tmp_path):
    frames = np.zeros((200, 480, 640), np.uint8)
    frames += np.arange(200, dtype=np.uint8)[:, None, None]
    paths = [make(tmp_path / "native.dcm", frames), make(tmp_path / "jpeg.dcm", frames, **jpeg(frames))]
    for path in paths:
        tracemalloc.start()
        with open_object(path) as source:
            reader = Frames(source)
            levels = [int(reader.render(reader.decode(index))[0, 0]) for index in (0, 100, 199)]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert levels == [0, 100, 199]
        assert peak < 12 * 480 * 640  # of 200 frames


def test_one_frame_is_decoded_for_one(tmp_path, monkeypatch):
    path = make(tmp_path / "a.dcm", GREY_CINE, RLELossless)
    decoded = []
    monkeypatch.setattr(
        pixels, "decode_frame", lambda encoded, request: decoded.append(encoded) or decode_frame(encoded, request)
    )
    rendered(path, 1)
    assert len(decoded) == 1


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PhotometricInterpretation": "HSV"}, "photometric"),
        ({"SamplesPerPixel": 3}, "photometric"),
        ({"BitsStored": 20}, "bit depth"),
        ({"HighBit": 5}, "high bit"),
        ({"Rows": 0}, "no picture size"),
        ({"Rows": 20}, "at least 32"),
        ({"NumberOfFrames": 5}, "fewer frames than stated"),
    ],
)
def test_what_cannot_be_decoded_is_refused_before_the_first_frame(attributes, reason, tmp_path):
    path = make(tmp_path / "a.dcm", GREY_CINE[0], **attributes)
    with open_object(path) as source, pytest.raises(UnreadableError, match=reason):
        Frames(source)


def test_an_undecodable_transfer_syntax_is_named(tmp_path):
    path = make(tmp_path / "a.dcm", GREY_CINE[0], MPEG4HP41, PixelData=encapsulate([b"\0" * 64]))
    with open_object(path) as source, pytest.raises(UnreadableError, match=r"MPEG-4.*not supported"):
        Frames(source)


def test_a_private_transfer_syntax_is_not_quoted(tmp_path):
    path = make(tmp_path / "a.dcm", GREY_CINE[0])
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.999999.7.11\0"))
    with pytest.raises(UnreadableError, match="unknown") as caught, open_object(path):
        pass
    assert "999999" not in str(caught.value)
