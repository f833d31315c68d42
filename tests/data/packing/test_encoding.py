import cv2
import numpy as np
import pytest

from arl_lightning.data.packing.encoding import Encoding
from arl_lightning.data.packing.spool import hash64, record_of
from arl_lightning.data.shards.sample import Sample
from arl_lightning.errors import UserError


def decode(encoded: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def test_png_keeps_every_pixel(speckle):
    for image in (speckle(50, 60), speckle(50, 60, 3)):
        encoding = Encoding("png")
        np.testing.assert_array_equal(decode(encoding.encode(encoding.prepare(image))), image)


def test_jpeg_keeps_grey_grey_and_the_channel_order():
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 200
    assert np.abs(decode(Encoding().encode(red)).astype(int) - red).max() <= 3
    assert np.abs(decode(Encoding().encode(red[..., 0])).astype(int) - 200).max() <= 1


def test_a_lower_quality_takes_fewer_bytes(speckle):
    sizes = [len(Encoding(quality=quality).encode(speckle(64, 64))) for quality in (10, 50, 92)]
    assert sizes == sorted(set(sizes))


def test_only_larger_images_are_scaled():
    assert Encoding(short_side=50).prepare(np.zeros((100, 151), np.uint8)).shape == (50, 76)
    assert Encoding(short_side=50).prepare(np.zeros((40, 300), np.uint8)).shape == (40, 300)
    assert Encoding(short_side=None).prepare(np.zeros((4000, 3000), np.uint8)).shape == (4000, 3000)


def test_keep_is_the_word_for_no_scaling():
    assert Encoding(short_side="keep") == Encoding(short_side=None) != Encoding()
    assert Encoding(short_side="keep").prepare(np.zeros((4000, 3000), np.uint8)).shape == (4000, 3000)
    with pytest.raises(UserError, match="or keep"):
        Encoding(short_side=-1)


def test_scaling_averages_areas():
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
    assert (Encoding(short_side=32).prepare(stripes) == 100).all()


def test_colours_are_made_as_asked():
    green = np.zeros((32, 32, 3), np.uint8)
    green[..., 1] = 100
    assert (Encoding(colour="grey").prepare(green) == 59).all()  # 0.587 of it
    assert Encoding(colour="auto").prepare(green) is green
    grey = green[..., 1]
    np.testing.assert_array_equal(Encoding(colour="rgb").prepare(grey), np.stack([grey] * 3, axis=-1))


def test_pixels_grow_as_their_number_shrinks():
    sample = Sample(np.zeros((100, 151), np.uint8), "liver", "s", "large", spacing_mm=(0.2, 0.3))
    assert record_of(sample, 50, 76, "")["spacing_mm"] == (0.4, 0.5961)  # 0.3 * 151 / 76, four digits


def test_a_sample_is_identified_by_its_source_and_name():
    assert hash64("a", "b") == hash64("a", "b") != hash64("ab", "")
    assert hash64("s", "\udcff") > 0  # a file name that is no Unicode


@pytest.mark.parametrize("wrong", [{"quality": 0}, {"quality": 101}, {"short_side": 0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Encoding(**wrong)
