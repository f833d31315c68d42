import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.media import decode_clip, decode_image, to_grey
from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.folder import Folder, find_media
from arl_lightning.errors import UserError


def read_folder(root: Path, anatomy: str, **options) -> Iterator[Sample | Rejected]:
    source = Folder(root, anatomy, **options)
    return itertools.chain.from_iterable(source.read(unit) for unit in source.units())


def read(root: Path, **options) -> tuple[list[Sample], list[Rejected]]:
    items = list(read_folder(root, "breast", **options))
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_a_grey_image_comes_back_as_it_is(tmp_path, speckle):
    image = speckle(40, 50)
    save(tmp_path / "a.png", image)
    (sample,), rejected = read(tmp_path)
    np.testing.assert_array_equal(sample.image, image)
    assert not rejected
    assert (sample.anatomy, sample.source, sample.name) == ("breast", tmp_path.name, "a.png")
    assert (sample.patient, sample.video, sample.frame) == (None, None, None)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_values_are_scaled_over_their_own_range(tmp_path, suffix):
    values = np.linspace(1000, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    image = decode_image(save(tmp_path / f"a{suffix}", values))
    assert image.dtype == np.uint8
    assert (image.min(), image.max()) == (0, 255)
    expected = (values.astype(float) - 1000) / 3095 * 255
    assert np.abs(image - expected).max() <= 0.5 + 1e-9


def test_16_bit_colour_keeps_its_low_bits_and_its_channel_order(tmp_path):
    red_ramp = np.zeros((64, 64, 3), np.uint16)
    red_ramp[..., 0] = np.arange(64)
    cv2.imwrite(str(tmp_path / "a.png"), red_ramp[..., ::-1])  # OpenCV stores BGR
    image = decode_image(tmp_path / "a.png")
    assert image.shape == (64, 64, 3)
    assert image[0, -1].tolist() == [255, 0, 0]
    assert np.unique(image[..., 0]).size == 64


def test_a_constant_16_bit_image_is_black(tmp_path):
    assert not decode_image(save(tmp_path / "a.png", np.full((40, 40), 700, np.uint16))).any()


def test_a_palette_is_expanded_to_its_colours(tmp_path):
    colours = np.zeros((40, 40, 3), np.uint8)
    colours[:20], colours[20:] = (200, 10, 10), (10, 10, 200)
    Image.fromarray(colours).quantize(4).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), colours)


def test_alpha_is_dropped_and_not_blended(tmp_path, speckle):
    rgba = speckle(40, 40, 4)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "a.png", rgba)), rgba[..., :3])


def test_grey_stored_as_rgb_becomes_grey_without_loss(tmp_path, speckle):
    grey = speckle(40, 40)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "a.png", np.stack([grey] * 3, axis=-1))), grey)


def test_chroma_noise_is_grey_but_a_small_coloured_box_is_not(speckle):
    noisy = np.stack([speckle(100, 100) // 2 + 60] * 3, axis=-1)
    noisy[..., 2] += speckle(100, 100, seed=1) % 30
    assert to_grey(noisy).ndim == 2
    noisy[:4, :4] = (200, 20, 20)  # 16 of 10,000 pixels: above 1 in 1,000
    assert to_grey(noisy).ndim == 3


def test_exif_orientation_is_ignored(tmp_path, speckle):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(speckle(40, 60)).save(tmp_path / "a.jpg", exif=exif)
    assert decode_image(tmp_path / "a.jpg").shape == (40, 60)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image_is_rejected(tmp_path, speckle, suffix):
    cut(save(tmp_path / f"a{suffix}", speckle(200, 200)), 0.5)
    samples, (rejected,) = read(tmp_path)
    assert not samples
    assert rejected.path == tmp_path / f"a{suffix}"
    assert "truncated" in rejected.reason


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", "empty file"),
        ("empty.mp4", b"", "empty file"),
        ("text.png", b"patient,label\n1,2\n", "not an image"),
        ("text.mp4", b"hello\n" * 100, "Invalid data"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\nother.mp4\n", "Invalid data"),
        ("drawing.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not an image"),
    ],
)
def test_a_file_that_is_not_what_its_suffix_says_is_rejected(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    samples, (rejected,) = read(tmp_path)
    assert not samples
    assert reason in rejected.reason


def test_an_image_below_32_pixels_is_rejected_with_its_size(tmp_path, speckle):
    save(tmp_path / "small.png", speckle(3, 3))
    save(tmp_path / "thin.png", speckle(31, 400))
    save(tmp_path / "just.png", speckle(32, 32))
    samples, rejected = read(tmp_path)
    assert [sample.name for sample in samples] == ["just.png"]
    assert [item.reason for item in rejected] == [
        "3x3 pixels; at least 32x32 are needed",
        "400x31 pixels; at least 32x32 are needed",
    ]


@pytest.mark.parametrize("side", [10_000, 20_000])  # Pillow warns of the one and refuses the other
def test_a_decompression_bomb_is_rejected(tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    _, (rejected,) = read(tmp_path)
    assert "pixels; a decompression bomb" in rejected.reason


def test_a_list_of_other_clips_is_not_followed(tmp_path, write_clip):
    write_clip(tmp_path / "other.avi")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile other.avi\n")
    *_, last = decode_clip(tmp_path / "list.mp4", Fraction(2))
    assert isinstance(last, Rejected)


def test_pillows_warnings_and_log_lines_are_kept_from_the_user(tmp_path, speckle, recwarn, caplog):
    palette = Image.fromarray(speckle(40, 40, 3)).quantize(4)
    palette.save(tmp_path / "a.png", transparency=bytes([0, 128, 255, 255]))
    image = save(tmp_path / "b.tif", speckle(40, 40, 3))
    samples_per_pixel = b"\x15\x01\x03\x00\x01\x00\x00\x00"  # tag 277, one short
    content = image.read_bytes()
    assert samples_per_pixel + b"\x03" in content
    image.write_bytes(content.replace(samples_per_pixel + b"\x03", samples_per_pixel + b"\x09"))
    samples, rejected = read(tmp_path)
    assert (len(samples), len(rejected)) == (1, 1)
    assert not recwarn.list
    assert not caplog.records


def test_a_fault_names_no_folder_twice_and_says_nothing_on_the_terminal(tmp_path, speckle, write_clip, capfd):
    cut(save(tmp_path / "a.jpg", speckle(200, 200)), 0.5)
    cut(save(tmp_path / "a.tif", speckle(200, 200)), 0.5)
    damage(write_clip(tmp_path / "b.avi", noise=True))
    cut(write_clip(tmp_path / "c.mp4", noise=True), 0.5)
    _, rejected = read(tmp_path)
    assert len(rejected) == 4
    assert not any(str(tmp_path) in item.reason for item in rejected)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("fps", "expected"), [(2.0, 4), (5.0, 10), (0.5, 1), (1000.0, 50)])
def test_frames_follow_the_clips_real_duration(tmp_path, write_clip, fps, expected):
    write_clip(tmp_path / "a.mp4", num_frames=50, rate=25)  # two seconds
    samples, rejected = read(tmp_path, fps=fps)
    assert not rejected
    assert len(samples) == expected


def test_a_frame_carries_the_index_it_has_in_its_clip(tmp_path, write_clip):
    (tmp_path / "sub").mkdir()
    write_clip(tmp_path / "sub/a.avi", num_frames=30, rate=10)
    samples, _ = read(tmp_path, fps=2.0)
    assert [sample.frame for sample in samples] == [0, 5, 10, 15, 20, 25]
    assert {sample.video for sample in samples} == {"sub/a.avi"}
    assert len({sample.name for sample in samples}) == 6
    for sample in samples:
        assert sample.image.shape == (64, 64)
        assert abs(sample.image.mean() - 4 * sample.frame) < 4


@pytest.mark.parametrize("num_frames", [1, 20])
def test_a_gif_is_a_clip_whether_it_moves_or_not(tmp_path, write_clip, num_frames):
    write_clip(tmp_path / "a.gif", num_frames=num_frames, rate=10, codec="gif")
    samples, rejected = read(tmp_path, fps=1.0)
    assert not rejected
    assert [sample.frame for sample in samples] == list(range(0, num_frames, 10))


def test_a_clip_without_time_stamps_is_placed_by_its_index(tmp_path, write_clip, monkeypatch):
    path = write_clip(tmp_path / "a.avi", num_frames=30, rate=10)

    class Untimed:
        def __init__(self, frame):
            self.frame, self.pts = frame, None

        def __getattr__(self, name):
            return getattr(self.frame, name)

    from arl_lightning.data import media

    timed = media._timed_frames
    monkeypatch.setattr(media, "_timed_frames", lambda frames, rate: timed(map(Untimed, frames), rate))
    assert [frame.index for frame in decode_clip(path, Fraction(2))] == [0, 5, 10, 15, 20, 25]


def damage(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("fault", [damage, lambda path: cut(path, 0.5)])
@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_a_clip_that_fails_midway_gives_the_frames_before(tmp_path, write_clip, suffix, fault):
    path = write_clip(tmp_path / f"a{suffix}", num_frames=50, rate=25, noise=True)
    whole = [frame.image for frame in decode_clip(path, Fraction(25))]
    *frames, last = decode_clip(fault(path), Fraction(25))
    assert isinstance(last, Rejected)
    assert 10 < len(frames) < 40
    for frame in frames:
        np.testing.assert_array_equal(frame.image, whole[frame.index])


def test_a_clip_cut_between_two_frames_is_noticed(tmp_path, write_clip):
    path = write_clip(tmp_path / "a.mp4", num_frames=50, noise=True)
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: positions[20]])
    *frames, last = decode_clip(path, Fraction(25))
    assert len(frames) == 20
    assert last == Rejected(path, "frame 20: ends after 20 of 50 frames")


def test_a_clip_without_its_index_is_rejected_whole(tmp_path, write_clip):
    cut(write_clip(tmp_path / "a.mp4", noise=True), 0.001)
    samples, (rejected,) = read(tmp_path)
    assert not samples
    assert rejected.path == tmp_path / "a.mp4"


def test_order_is_sorted_and_repeatable(tmp_path, speckle):
    for name in ("b/2.png", "a/10.JPG", "c.PNG", "a/1.bmp", "b/1.tiff", "a/3.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, speckle(32, 32))
    (tmp_path / "notes.csv").write_text("a,b")
    names = [sample.name for sample in read(tmp_path)[0]]
    assert names == ["c.PNG", "a/1.bmp", "a/10.JPG", "a/3.jpeg", "b/1.tiff", "b/2.png"]
    assert names == [sample.name for sample in read(tmp_path)[0]]


@pytest.mark.parametrize(
    ("exclude", "kept"),
    [
        ([], ["a.png", "a_MASK_1.png", "x/labels/a.png", "x/masks/a.png"]),
        (["*_mask*"], ["a.png", "x/labels/a.png", "x/masks/a.png"]),
        (["*_mask*", "masks/*"], ["a.png", "x/labels/a.png"]),
        (["x/labels/", "x/masks/a.png"], ["a.png", "a_MASK_1.png"]),
        (["asks/*"], ["a.png", "a_MASK_1.png", "x/labels/a.png", "x/masks/a.png"]),
    ],
)
def test_exclude_matches_names_and_relative_paths(tmp_path, speckle, exclude, kept):
    for name in ("a.png", "a_MASK_1.png", "x/masks/a.png", "x/labels/a.png", ".hidden.png", ".cache/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / name, speckle(32, 32))
    assert [path.relative_to(tmp_path).as_posix() for path in find_media(tmp_path, exclude)] == kept


def test_a_root_without_images_says_what_was_looked_for(tmp_path, speckle):
    (tmp_path / "notes.csv").write_text("a,b")
    with pytest.raises(UserError, match=r"holds no image or clip; looked for \.bmp.*\.mpg"):
        read_folder(tmp_path, "breast")
    save(tmp_path / "a_mask.png", speckle(32, 32))
    with pytest.raises(UserError, match=r"beside what \['\*_mask\*'\] excludes"):
        read_folder(tmp_path, "breast", exclude=["*_mask*"])


def test_a_wrong_root_or_fps_is_refused_before_reading(tmp_path, speckle):
    with pytest.raises(UserError, match="no such folder"):
        read_folder(tmp_path / "missing", "breast")
    path = save(tmp_path / "a.png", speckle(32, 32))
    with pytest.raises(UserError, match="is no folder"):
        read_folder(path, "breast")
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"fps .*: must be above 0"):
            read_folder(tmp_path, "breast", fps=fps)


def test_every_real_clip_and_image_decodes(ultrasound_data):
    samples, rejected = read(ultrasound_data / "pocus", fps=0.1)
    assert not rejected
    assert {Path(sample.name.split("#")[0]).suffix.lower() for sample in samples} == {
        ".avi", ".gif", ".jpg", ".mov", ".mp4", ".mpeg", ".png",
    }  # fmt: skip
    assert len({sample.video for sample in samples} - {None}) == 41


def test_real_names_with_spaces_are_kept(ultrasound_data):
    samples, rejected = read(ultrasound_data / "muscle_timtrack")
    assert not rejected
    assert "dataset 4/SampleA/GM_T_9.png" in {sample.name for sample in samples}
    assert len(samples) == 59


def test_include_reads_only_what_matches_and_exclude_still_applies(tmp_path):
    for name in ("train/a.png", "test/a.png", "test/a_mask.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 40), 90, np.uint8)).save(path)
    samples = list(read_folder(tmp_path, "breast", include=["test/*"], exclude=["*_mask*"]))
    assert [sample.name for sample in samples] == ["test/a.png"]
    with pytest.raises(UserError, match=r"'val/\*'"):
        read_folder(tmp_path, "breast", include=["val/*"])
