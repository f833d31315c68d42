"""Damaged and hostile objects cost themselves alone."""

import errno
import io
import os
import signal
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_dicom import KEY, fan, jpeg, make, region
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from arl_lightning.data.dicom import helper, objects, pixels
from arl_lightning.data.dicom.codestream import Extent, check_codestream
from arl_lightning.data.dicom.decoding import Request
from arl_lightning.data.dicom.deidentify import KEY_VARIABLE
from arl_lightning.data.dicom.encapsulated import find_frames, read_fragments
from arl_lightning.data.dicom.objects import open_object
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.media import UnreadableError
from arl_lightning.data.shards.sample import Sample
from arl_lightning.data.sources.dicom import Dicom

REGION = {"SequenceOfUltrasoundRegions": [region(40, 30, 359, 289)]}
SIZE = Extent(300, 400, 1, 8)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def read(root, **options):
    source = Dicom(root, **options)
    return {source.path_of(unit).name: list(source.read(unit)) for unit in source.units()}


# ---------------------------------------------------------------- what a frame says of itself


def stream(syntax):
    """Return a grey frame of 300 x 400, and where its header's fields stand: their format, then height, width, ..."""
    if syntax == JPEGBaseline8Bit:
        buffer = io.BytesIO()
        Image.fromarray(fan()).save(buffer, "JPEG", quality=95)
        encoded = buffer.getvalue()
        start = encoded.index(b"\xff\xc0")
        return encoded, ">H", (start + 5, start + 7, start + 4, start + 9)
    if syntax == JPEG2000Lossless:
        encoded = bytes(encode_array(fan(), codec_format=0))
        return encoded, ">L", (12, 8, 42, 41)
    made = make(Path(os.environ["MADE"]) / "a", fan(), syntax)
    encoded = next(generate_frames(dcmread(made).PixelData, number_of_frames=1))
    start = encoded.index(b"\xff\xf7")
    return encoded, ">H", (start + 5, start + 7, start + 4, start + 9)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless])
def test_a_frame_that_is_not_as_its_object_says_is_refused_before_it_is_decoded(syntax, tmp_path, monkeypatch):
    monkeypatch.setenv("MADE", str(tmp_path / "made"))
    encoded, form, (height, width, precision, components) = stream(syntax)
    check_codestream(encoded, syntax, SIZE)
    monkeypatch.setattr(pixels, "decode_frame", lambda *_: pytest.fail("decoded"))
    for place, what in ((height, "height"), (width, "width"), (precision, "precision"), (components, "components")):
        damaged = bytearray(encoded)
        if what in ("height", "width"):
            struct.pack_into(form, damaged, place, 20_000)
        else:
            damaged[place] = 15
        path = make(tmp_path / f"in/{what}", fan(), syntax, PixelData=encapsulate([bytes(damaged)]), **REGION)
        (item,) = read(path.parent)[what]
        assert item.reason == f"damaged frame (its {what} differs from the header's)"


def test_a_thumbnail_in_a_jpeg_is_not_its_header(tmp_path):
    small, large = io.BytesIO(), io.BytesIO()
    Image.fromarray(fan(60, 80)).save(small, "JPEG")
    Image.fromarray(fan()).save(large, "JPEG")
    thumbnail = small.getvalue()
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    check_codestream(large.getvalue()[:2] + b"\xff" + segment + large.getvalue()[2:], JPEGBaseline8Bit, SIZE)


def test_a_jpeg_2000_file_around_a_codestream_is_read():
    boxed = bytes(encode_array(fan(), codec_format=1))
    check_codestream(boxed, JPEG2000Lossless, SIZE)
    with pytest.raises(UnreadableError, match="width"):
        check_codestream(boxed, JPEG2000Lossless, Extent(300, 401, 1, 8))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("encoded", [b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\x00\x11", b"\xff\x4f\xff\x51\x00", b"x" * 99])
def test_a_frame_without_a_header_is_refused(syntax, encoded):
    with pytest.raises(UnreadableError, match="no codestream header"):
        check_codestream(encoded, syntax, SIZE)


# ---------------------------------------------------------------- a decoder that ends its process


def lossless(ultrasound_data, tmp_path):
    """Copy a real lossless JPEG, whole and with its precision set to 70 bits, over which GDCM ends its process."""
    content = (ultrasound_data / "dicom/JPGLosslessP14SV1_1s_1f_8b.dcm").read_bytes()
    place = content.index(b"\xff\xc3") + 4
    assert content[place] == 8
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1").write_bytes(content[:place] + b"\x46" + content[place + 1 :])
    for name in ("0", "2"):
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


def test_a_frame_that_ends_its_decoder_is_a_rejected_one(ultrasound_data, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "check_codestream", lambda *_: None)  # which refuses this frame at once
    found = read(lossless(ultrasound_data, tmp_path))
    assert found["1"][0].reason == helper.ENDS
    assert isinstance(found["0"][0], Sample)
    np.testing.assert_array_equal(found["0"][0].image, found["2"][0].image)


def request(rows=4, columns=4):
    options = {
        "rows": rows, "columns": columns, "samples_per_pixel": 1, "photometric_interpretation": "MONOCHROME2",
        "planar_configuration": 0, "bits_allocated": 8, "bits_stored": 8, "pixel_representation": 0,
        "pixel_keyword": "PixelData",
    }  # fmt: skip
    return Request(str(JPEGLosslessSV1), "gdcm", False, options)


@pytest.fixture
def process():
    started = helper.Helper()
    yield started
    started.close()


def test_a_process_that_is_killed_tells_of_the_machine_and_one_that_crashes_of_the_frame():
    for number in (signal.SIGSEGV, signal.SIGKILL):
        process = helper.Helper()
        os.kill(process._process.pid, number)
        process._process.wait()
        with pytest.raises(UnreadableError if number == signal.SIGSEGV else OSError) as caught:
            process.decode(b"x", request())
        assert getattr(caught.value, "errno", None) == (errno.ENOMEM if number == signal.SIGKILL else None)


def test_a_frame_that_takes_too_long_is_refused(process, monkeypatch):
    monkeypatch.setattr(helper, "TIME_LIMIT", 0.05)
    os.kill(process._process.pid, signal.SIGSTOP)
    with pytest.raises(UnreadableError, match=helper.HANGS):
        process.decode(b"x", request())
    assert not process.is_alive


def test_the_process_that_decodes_is_not_given_the_key(process):
    environment = Path(f"/proc/{process._process.pid}/environ")
    if not environment.exists():
        pytest.skip("needs /proc")
    assert KEY.encode() not in environment.read_bytes()


def test_the_process_that_decodes_ends_with_the_one_that_reads(process):
    process._process.stdin.close()  # as the kernel does for a killed process
    assert process._process.wait(10) == 0


@pytest.mark.parametrize(
    ("head", "content", "reason"),
    [
        ({"error": "RuntimeError"}, b"", r"cannot be decoded \(RuntimeError\)"),
        ({"error": "Quesnel, Ottilie"}, b"", r"cannot be decoded \(unknown\)"),
        ({"shape": [400, 4]}, b"\0" * 1600, "another size"),
    ],
)
def test_what_a_decoder_answers_is_checked(head, content, reason):
    with pytest.raises(UnreadableError, match=reason):
        helper._checked(head, content, request())


# ---------------------------------------------------------------- deflated objects


def bomb(path, where):
    """Write a deflated object of one frame with 2 MiB of zeros behind its pixels, or stated to belong to them."""
    content = make(path, fan(), DeflatedExplicitVRLittleEndian, **REGION).read_bytes()
    start = 132 + 12 + int.from_bytes(content[140:144], "little")
    inflated = zlib.decompress(content[start:], -15)
    if where == "in the pixels":
        place = inflated.rindex(b"\xe0\x7f\x10\x00") + 8
        inflated = inflated[:place] + struct.pack("<L", 120_000 + 2**21) + inflated[place + 4 :]
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    path.write_bytes(content[:start] + deflate.compress(inflated + bytes(2**21)) + deflate.flush())
    return inflated.rindex(b"\xe0\x7f\x10\x00") + 12 + 300 * 400


@pytest.mark.parametrize("where", ["behind the pixels", "in the pixels"])
def test_no_more_is_inflated_than_the_pixels_that_are_stated(where, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "MAX_DEFLATED_HEADER", 2**16)
    end = bomb(tmp_path / "a", where)
    with open_object(tmp_path / "a") as source:
        np.testing.assert_array_equal(Frames(source).decode(0), fan())
        assert source.file.seek(0, os.SEEK_END) == end


def test_a_deflated_header_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "MAX_DEFLATED_HEADER", 2**16)
    make(tmp_path / "a", fan(), DeflatedExplicitVRLittleEndian, PatientComments="x" * 2**17, **REGION)
    with pytest.raises(UnreadableError), open_object(tmp_path / "a"):
        pass


# ---------------------------------------------------------------- fragments


def fragmented(has_bot, **options):
    frames = [fan(seed=seed) for seed in range(6)]
    data = encapsulate(jpeg_frames(frames), fragments_per_frame=3, has_bot=has_bot, **options)
    return frames, data


def jpeg_frames(frames):
    return list(generate_frames(jpeg(frames)["PixelData"], number_of_frames=len(frames)))


@pytest.mark.parametrize("table", ["right", "none", "zeros", "beyond", "falling", "shifted"])
def test_frames_of_several_fragments_are_found_by_a_right_table_or_by_their_ends(table):
    frames, data = fragmented(table != "none")
    data = bytearray(data)
    if table not in ("right", "none"):
        right = struct.unpack("<6L", data[8:32])
        shifted = [0, *(offset + 1 for offset in right[1:])]  # to within a frame's first fragment
        offsets = {
            "shifted": shifted,
            "zeros": [0] * 6,
            "beyond": [0, 1, 2, 3, 4, 2**31],
            "falling": [0, 5, 4, 3, 2, 1],
        }[table]
        data[8 : 8 + 24] = struct.pack("<6L", *offsets)
    file = io.BytesIO(b"header" + bytes(data) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))
    found = find_frames(file, 6, 6)
    for fragments, encoded in zip(found, jpeg_frames(frames), strict=True):
        assert len(fragments) == 3
        assert read_fragments(file, fragments).rstrip(b"\0") == encoded.rstrip(b"\0")


def test_a_frame_far_back_costs_what_the_first_does(tmp_path):
    frames, data = fragmented(False)
    path = make(tmp_path / "a", np.stack(frames), JPEGBaseline8Bit, PixelData=data)
    with open_object(path) as source:
        counting = Counting(source.file)
        reader = Frames(replace(source, file=counting))
        counts = []
        for index in (0, 5):
            before = counting.num_bytes
            np.testing.assert_allclose(reader.decode(index), frames[index], atol=40)
            counts.append(counting.num_bytes - before)
    assert counts == [sum(fragment.length for fragment in reader._fragments[index]) for index in (0, 5)]


class Counting:
    """A file that counts the bytes that are read from it."""

    def __init__(self, file):
        self.file, self.num_bytes = file, 0
        self.seek, self.tell = file.seek, file.tell

    def read(self, size=-1):
        content = self.file.read(size)
        self.num_bytes += len(content)
        return content


def test_fragments_without_ends_are_told_apart_by_their_table():
    frames = [b"abcdef" * 20, b"ghijkl" * 40]
    file = io.BytesIO(encapsulate(frames, fragments_per_frame=2) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))
    assert [read_fragments(file, fragments) for fragments in find_frames(file, 0, 2)] == frames


def test_fragments_without_ends_or_table_are_refused(tmp_path):
    file = io.BytesIO(encapsulate([b"abcdef" * 20, b"ghijkl" * 20], fragments_per_frame=2, has_bot=False)
                      + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))  # fmt: skip
    with pytest.raises(UnreadableError, match="cannot be told apart"):
        find_frames(file, 0, 2)


def test_the_helper_decodes_the_syntaxes_of_gdcm_alone(tmp_path, ultrasound_data):
    chosen = {}
    for syntax in (JPEGLSLossless, JPEG2000Lossless, UID("1.2.840.10008.1.2.5")):
        with open_object(make(tmp_path / "a", fan(), syntax)) as source:
            chosen[str(syntax)] = Frames(source).plugin
    for path in (
        make(tmp_path / "b", fan(), **jpeg([fan()])),
        ultrasound_data / "dicom/JPGLosslessP14SV1_1s_1f_8b.dcm",
    ):
        with open_object(path) as source:
            chosen[str(source.transfer_syntax)] = Frames(source).plugin
    assert list(chosen.values()) == ["pyjpegls", "pylibjpeg", "pydicom", "pillow", "gdcm"]
    assert pixels.APART == ("gdcm",)
