import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.fatty_liver import FILE, FattyLiver
from arl_lightning.errors import UserError

PATIENTS = (3, 7, 55)
FIELDS = ("id", "class", "fat", "images")


def write(root: Path, images: list[np.ndarray], fields: tuple[str, ...] = FIELDS, variable: str = "data") -> Path:
    """Write the release's struct array, `images[i]` for the i-th of PATIENTS."""
    elements = np.zeros((1, len(images)), [(field, object) for field in fields])
    for place, values in enumerate(zip(PATIENTS, [0, 1, 1], [3, 20, 60], images, strict=True)):
        for field, value in zip(FIELDS, values, strict=True):
            if field in fields:
                elements[0, place][field] = value
    savemat(root / FILE, {variable: elements}, do_compression=True)
    return root


@pytest.fixture
def images(speckle) -> list[np.ndarray]:
    return [speckle(10, 40, 50, seed=seed) for seed in range(len(PATIENTS))]


def read(root: Path) -> tuple[list[Sample], list[Rejected]]:
    source = FattyLiver(root)
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def test_every_patient_is_a_clip_of_ten_frames_in_order(tmp_path, images):
    samples, rejected = read(write(tmp_path, images))
    assert not rejected
    assert [sample.patient for sample in samples] == ["3"] * 10 + ["7"] * 10 + ["55"] * 10
    assert [sample.frame for sample in samples] == [*range(10)] * 3
    assert {(sample.patient, sample.video) for sample in samples} == {
        ("3", "data(01)"),
        ("7", "data(02)"),
        ("55", "data(03)"),
    }
    assert len({sample.name for sample in samples}) == 30
    assert samples[13].name == "data(02)#000003"


def test_a_frame_is_one_place_of_the_first_axis_with_its_rows_and_columns(tmp_path, images):
    samples, _ = read(write(tmp_path, images))
    np.testing.assert_array_equal(samples[13].image, images[1][3])
    assert samples[13].image.flags.c_contiguous
    assert (samples[13].anatomy, samples[13].source, samples[13].probe) == ("liver", "fatty_liver", None)
    assert samples[13].spacing_mm == (0.373, 0.373)


def test_the_whole_file_is_one_unit(tmp_path, images):
    (unit,) = FattyLiver(write(tmp_path, images)).units()
    assert (unit.name, unit.path) == (FILE, tmp_path / FILE)


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (np.ones((10, 40, 50)), "data(2): images are float64 (10, 40, 50), not uint8 (frames, rows, columns)"),
        (np.ones((40, 50), np.uint8), "data(2): images are uint8 (40, 50), not uint8 (frames, rows, columns)"),
        (np.ones((40, 50, 10), np.uint8), "data(2): 10x50 pixels; at least 32x32 are needed"),
    ],
)
def test_a_damaged_patient_is_rejected_and_the_others_are_read(tmp_path, images, damaged, reason):
    samples, rejected = read(write(tmp_path, [images[0], damaged, images[2]]))
    assert rejected == [Rejected(tmp_path / FILE, reason)]
    assert [sample.patient for sample in samples] == ["3"] * 10 + ["55"] * 10


def test_a_missing_field_is_named(tmp_path, images):
    samples, rejected = read(write(tmp_path, images, fields=("id", "class", "fat")))
    assert not samples
    assert [item.reason for item in rejected] == [f"data({place}): has no field 'images'" for place in (1, 2, 3)]


def test_a_cut_file_is_rejected_once(tmp_path, images):
    write(tmp_path, images)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: len(content) // 2])
    samples, rejected = read(tmp_path)
    assert not samples
    assert [item.path for item in rejected] == [tmp_path / FILE]
    assert rejected[0].reason


def test_a_missing_file_is_named_with_where_to_ask(tmp_path):
    with pytest.raises(UserError, match=rf"{FILE}: missing; .*Zenodo for record 1009146"):
        FattyLiver(tmp_path).units()


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(UserError, match=rf"{FILE}: not a MATLAB file; download it again"):
        FattyLiver(tmp_path).units()


def test_another_variable_is_refused(tmp_path, images):
    with pytest.raises(UserError, match="holds no struct array 'data', only dataset"):
        FattyLiver(write(tmp_path, images, variable="dataset")).units()


def test_a_file_saved_as_matlab_7_3_is_refused_with_the_remedy(tmp_path, images):
    with h5py.File(tmp_path / FILE, "w", userblock_size=512) as file:
        file["data"] = images[0]
    with (tmp_path / FILE).open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(UserError, match=r"a MATLAB 7\.3 file, .* option '-v7'"):
        FattyLiver(tmp_path).units()


def test_the_source_travels_to_a_worker(tmp_path):
    source = FattyLiver(tmp_path, anatomy="abdominal")
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 (bytes of our own)
