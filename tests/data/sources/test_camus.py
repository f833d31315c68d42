# F frames, H rows along depth, W columns
import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.camus import Camus
from arl_lightning.errors import UserError

FRAMES, HEIGHT, WIDTH = 5, 48, 40


def write(path: Path, pixels: np.ndarray, spacing: tuple[float, ...] = (0.3, 0.15, 1.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing(spacing[: pixels.ndim])
    sitk.WriteImage(image, str(path))


@pytest.fixture
def frames(speckle):
    return speckle(FRAMES, HEIGHT, WIDTH)


def write_patient(folder: Path, sequence: str, suffix: str, frames: np.ndarray) -> None:
    for view in ("2CH", "4CH"):
        for kind, pixels in ((sequence, frames), ("ED", frames[0]), ("ES", frames[-1])):
            still = pixels if pixels.ndim == 3 or suffix == ".nii.gz" else pixels[np.newaxis]
            write(folder / f"{folder.name}_{view}_{kind}{suffix}", still)
            write(folder / f"{folder.name}_{view}_{kind}_gt{suffix}", still // 100)
        (folder / f"Info_{view}.cfg").write_text("ED: 1\nES: 5\nNbFrame: 5\nImageQuality: Good\n")


@pytest.fixture
def current(tmp_path, frames):
    for patient in ("patient0001", "patient0002"):
        write_patient(tmp_path / "database_nifti" / patient, "half_sequence", ".nii.gz", frames)
    return tmp_path


@pytest.fixture
def of_2019(tmp_path, frames):
    for part in ("training", "testing"):
        write_patient(tmp_path / part / "patient0001", "sequence", ".mhd", frames)
    return tmp_path


def read_all(source: Camus) -> tuple[list[Sample], list[Rejected]]:
    results = [result for unit in source.units() for result in source.read(unit)]
    rejected = [result for result in results if isinstance(result, Rejected)]
    return [result for result in results if isinstance(result, Sample)], rejected


def test_the_current_release_yields_every_frame_of_every_half_sequence_once(current, frames):
    samples, rejected = read_all(Camus(current))
    assert not rejected
    assert len(samples) == 2 * 2 * FRAMES
    assert len({sample.name for sample in samples}) == len(samples)
    assert {sample.patient for sample in samples} == {"patient0001", "patient0002"}
    third = samples[2]
    assert third.name == "database_nifti/patient0001/patient0001_2CH_half_sequence.nii.gz#000002"
    assert (third.video, third.frame, third.probe) == ("patient0001_2CH", 2, "sector")
    assert (third.anatomy, third.source, third.spacing_mm) == ("cardiac", "camus", (0.15, 0.3))
    np.testing.assert_array_equal(third.image, frames[2])


def test_patients_of_2019_with_the_same_number_in_both_parts_are_two(of_2019, frames):
    samples, rejected = read_all(Camus(of_2019))
    assert not rejected
    assert len(samples) == 2 * 2 * FRAMES
    assert {sample.patient for sample in samples} == {"training/patient0001", "testing/patient0001"}
    assert {sample.spacing_mm for sample in samples} == {(0.15, 0.3)}
    last = samples[-1]
    assert (last.name, last.video) == (
        "training/patient0001/patient0001_4CH_sequence.mhd#000004",
        "training/patient0001_4CH",
    )
    np.testing.assert_array_equal(last.image, frames[4])


@pytest.mark.parametrize("release", ["current", "of_2019"])
def test_stills_replace_the_sequences_and_are_never_ground_truth(release, request, frames):
    samples, rejected = read_all(Camus(request.getfixturevalue(release), frames="ed_es"))
    assert not rejected
    assert len(samples) == 2 * 2 * 2
    assert not [sample.name for sample in samples if "_gt" in sample.name or "sequence" in sample.name]
    for sample in samples:
        np.testing.assert_array_equal(sample.image, frames[0] if "_ED." in sample.name else frames[-1])
        assert sample.frame is None


def test_every_second_frame_of_one_view(current):
    samples, _ = read_all(Camus(current, views=("4CH",), every=2))
    assert [sample.frame for sample in samples] == [0, 2, 4] * 2
    assert {sample.video for sample in samples} == {"patient0001_4CH", "patient0002_4CH"}


def sector() -> np.ndarray:
    """A sector with its apex in the middle of the top row: half as wide as it is deep."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.where(np.abs(columns - WIDTH // 2) <= rows // 4, 200, 0).astype(np.uint8)


def nifti_bytes(volume: np.ndarray) -> bytes:
    """A NIfTI-1 file by the standard's offsets; the first axis, columns, runs fastest."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, WIDTH, HEIGHT, len(volume), 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)  # unsigned 8 bit
    struct.pack_into("<8f", header, 76, 1, 0.3, 0.15, 1, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    header[123] = 2  # millimetres
    header[344:348] = b"n+1\0"
    return bytes(header) + volume.tobytes()


def test_depth_points_down_in_files_written_by_the_formats_definitions(tmp_path):
    volume = np.stack([sector()] * 2)  # (F, H, W), columns fastest in memory as on disk
    nifti = tmp_path / "new/database_nifti/patient0001/patient0001_2CH_half_sequence.nii.gz"
    nifti.parent.mkdir(parents=True)
    nifti.write_bytes(gzip.compress(nifti_bytes(volume)))
    header = tmp_path / "old/training/patient0001/patient0001_2CH_sequence.mhd"
    header.parent.mkdir(parents=True)
    header.with_suffix(".raw").write_bytes(volume.tobytes())
    header.write_text(
        f"ObjectType = Image\nNDims = 3\nDimSize = {WIDTH} {HEIGHT} 2\nElementType = MET_UCHAR\n"
        "ElementSpacing = 0.3 0.15 1\nElementDataFile = patient0001_2CH_sequence.raw\n"
    )
    for root in (tmp_path / "new", tmp_path / "old"):
        samples, rejected = read_all(Camus(root, views=("2CH",)))
        assert not rejected
        assert [sample.spacing_mm for sample in samples] == [(0.15, 0.3)] * 2
        widths = np.count_nonzero(samples[0].image, axis=1)
        assert (widths[0], widths[-1]) == (1, 2 * (47 // 4) + 1)
        np.testing.assert_array_equal(samples[1].image, sector())


def test_a_nifti_file_that_is_cut_or_rotten_is_refused_whole(current):
    folder = current / "database_nifti/patient0001"
    cut, rotten = (folder / f"patient0001_{view}_half_sequence.nii.gz" for view in ("2CH", "4CH"))
    cut.write_bytes(cut.read_bytes()[:-3000])
    content = bytearray(rotten.read_bytes())
    content[len(content) // 2] ^= 0x55
    rotten.write_bytes(content)
    samples, rejected = read_all(Camus(current))
    assert [one.path for one in rejected] == [cut, rotten]
    assert "end-of-stream" in rejected[0].reason
    assert len(samples) == 2 * FRAMES
    assert {sample.patient for sample in samples} == {"patient0002"}


def test_a_metaimage_that_is_cut_yields_the_frames_before_the_cut(of_2019, frames):
    header = of_2019 / "testing/patient0001/patient0001_2CH_sequence.mhd"
    raw = header.with_suffix(".raw")
    raw.write_bytes(raw.read_bytes()[: 3 * HEIGHT * WIDTH + 100])
    samples, rejected = read_all(Camus(of_2019))
    assert len(rejected) == 1
    assert (rejected[0].path, rejected[0].reason[:9]) == (header, "frame 3: ")
    of_cut = [sample for sample in samples if sample.video == "testing/patient0001_2CH"]
    assert [sample.frame for sample in of_cut] == [0, 1, 2]
    assert len(samples) == 3 + 3 * FRAMES


def test_missing_and_foreign_files_are_rejected_with_the_reason(current, speckle):
    folder = current / "database_nifti/patient0001"
    (folder / "patient0001_2CH_half_sequence.nii.gz").unlink()
    (folder / "patient0001_4CH_half_sequence.nii.gz").write_bytes(gzip.compress(b"no NIfTI" * 100))
    _, rejected = read_all(Camus(current))
    assert [one.reason for one in rejected] == ["missing", "not a NIfTI file"]


def test_other_pixel_types_are_taken_within_the_range_of_8_bits(current, frames):
    path = current / "database_nifti/patient0001/patient0001_2CH_half_sequence.nii.gz"
    write(path, frames.astype(np.float32))
    write(path.with_name("patient0001_4CH_half_sequence.nii.gz"), frames.astype(np.int16) - 1)
    samples, rejected = read_all(Camus(current))
    np.testing.assert_array_equal(samples[1].image, frames[1])
    assert samples[1].image.dtype == np.uint8
    assert [one.reason for one in rejected] == ["grey levels from -1 to 254; 0 to 255 are expected"]


def test_errors_name_what_is_missing_and_where_to_ask(tmp_path, current):
    with pytest.raises(UserError, match=r"nowhere: no such folder.*CREATIS"):
        Camus(tmp_path / "nowhere").units()
    with pytest.raises(UserError, match=r"neither database_nifti/patient0001 nor training/patient0001.*CREATIS"):
        Camus(tmp_path / "database_nifti").units()
    for path in current.rglob("*half_sequence.nii.gz"):
        path.unlink()
    with pytest.raises(UserError, match=r"patient0001_2CH_half_sequence.nii.gz: missing.*ed_es"):
        Camus(current).units()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"views": ("3CH",)}, "views: '3CH'"), ({"frames": "some"}, "frames: 'some'"), ({"every": 0}, "every: 0")],
)
def test_a_wrong_option_is_named(current, options, message):
    with pytest.raises(UserError, match=message):
        Camus(current, **options).units()


def test_the_source_travels_to_other_processes(current):
    source = Camus(current, views=("4CH",), every=3)
    twin = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert twin == source
    assert twin.units() == source.units()
