import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.thyroid_cine import ThyroidCine
from arl_lightning.errors import UserError

HEADER = "annot_id,age,sex,location,size_x,size_y,size_z,ti-rads_level,histopath_diagnosis\n"
# Neighbours of one age and sex are one patient: {8_, 9_}, {10_}, {12_}; 11_ parts 10_ from 12_.
PERSONS = [
    ("8_", 71, "Female"),
    ("9_", 71, "Female"),
    ("10_", 72, "Female"),
    ("11_", 57, "Male"),
    ("12_", 72, "Female"),
]
# Rows as released: clips in no order, frame numbers from 1 with gaps, as bytes.
ROWS = [("12_", 3), ("12_", 4), ("12_", 6), *(("9_", n) for n in range(1, 8)), ("8_", 2), ("10_", 5), ("11_", 1)]


@pytest.fixture
def cine(tmp_path, speckle) -> Path:
    table = "".join(f"{clip},{age},{sex},left,1,1,1,3,0\n" for clip, age, sex in PERSONS)
    (tmp_path / "metadata.csv").write_text(HEADER + table)
    images = np.stack([speckle(40, 52, seed=row) for row in range(len(ROWS))])
    with h5py.File(tmp_path / "dataset.hdf5", "w") as file:
        file["annot_id"] = np.array([clip for clip, _ in ROWS], dtype="S4")
        file["frame_num"] = np.array([str(number) for _, number in ROWS], dtype="S3")
        file.create_dataset("image", data=images, chunks=(1, 40, 52), compression="gzip")
        file["mask"] = np.zeros_like(images)
    return tmp_path


def read(source: ThyroidCine) -> tuple[list[Sample], list[Rejected]]:
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def test_a_clip_is_one_unit_with_its_own_frames(cine, speckle):
    samples, rejected = read(ThyroidCine(cine, every=1))
    assert not rejected
    assert [unit.name for unit in ThyroidCine(cine).units()] == ["10_", "11_", "12_", "8_", "9_"]
    assert len(samples) == len({sample.name for sample in samples}) == len(ROWS)
    clip = [sample for sample in samples if sample.video == "12_"]
    assert [(sample.name, sample.frame) for sample in clip] == [("12_#000002", 2), ("12_#000003", 3), ("12_#000005", 5)]
    np.testing.assert_array_equal(clip[2].image, speckle(40, 52, seed=2))
    assert {(sample.source, sample.anatomy) for sample in samples} == {("thyroid_cine", "thyroid")}


def test_every_nth_stored_frame_is_taken(cine, speckle):
    samples, _ = read(ThyroidCine(cine, every=3))
    assert [sample.frame for sample in samples if sample.video == "9_"] == [0, 3, 6]
    assert [sample.frame for sample in samples if sample.video == "12_"] == [2]
    last = next(sample for sample in samples if sample.name == "9_#000006")
    np.testing.assert_array_equal(last.image, speckle(40, 52, seed=9))


def test_neighbours_of_one_age_and_sex_share_a_patient(cine):
    patients = {unit.name: unit.details["patient"] for unit in ThyroidCine(cine).units()}
    assert patients == {"8_": "8_", "9_": "8_", "10_": "10_", "11_": "11_", "12_": "12_"}


def test_clips_without_an_age_are_each_their_own_patient(cine):
    (cine / "metadata.csv").write_text("annot_id,age,sex\n8_,,Female\n9_,,Female\n10_,5,F\n11_,5,F\n12_,5,M\n")
    patients = {unit.name: unit.details["patient"] for unit in ThyroidCine(cine).units()}
    assert patients == {"8_": "8_", "9_": "9_", "10_": "10_", "11_": "10_", "12_": "12_"}


def test_a_damaged_row_costs_that_frame_alone(cine):
    path = cine / "dataset.hdf5"
    with h5py.File(path) as file:
        chunk = file["image"].id.get_chunk_info_by_coord((4, 0, 0))  # frame_num 2 of clip 9_
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    samples, (rejected,) = read(ThyroidCine(cine, every=1))
    assert len(samples) == len(ROWS) - 1
    assert "9_#000001" not in {sample.name for sample in samples}
    assert rejected.path == path
    assert rejected.reason.startswith("clip 9_, row 4: ")


def test_a_repeated_frame_number_never_makes_two_samples_of_one_name(cine):
    with h5py.File(cine / "dataset.hdf5", "r+") as file:
        file["frame_num"][1] = b"3"
    samples, (rejected,) = read(ThyroidCine(cine, every=1))
    assert len(samples) == len({sample.name for sample in samples}) == len(ROWS) - 1
    assert rejected.reason == "clip 12_: row 1 repeats frame_num 3"


def test_clips_without_a_row_and_rows_without_a_clip_are_rejected(cine):
    (cine / "metadata.csv").write_text("annot_id,age,sex\n8_,71,Female\n9_,71,Female\n10_,72,F\n12_,72,F\n99_,3,F\n")
    samples, rejected = read(ThyroidCine(cine, every=1))
    assert len(samples) == len(ROWS) - 1
    assert [item.reason for item in rejected] == [
        "clip 11_: no row in metadata.csv",
        "clip 99_: no frame in dataset.hdf5",
    ]


def test_reading_holds_no_file_open_between_clips(cine):
    source = ThyroidCine(cine)
    for unit in source.units():
        list(source.read(unit))
    with h5py.File(cine / "dataset.hdf5", "r+") as file:  # HDF5 refuses this while the file is open for reading
        assert "image" in file


@pytest.mark.parametrize("entry", ["dataset.hdf5", "metadata.csv"])
def test_what_is_missing_is_named_with_where_to_ask(cine, entry):
    (cine / entry).unlink()
    with pytest.raises(UserError, match=rf"{entry}: missing.*Stanford AIMI"):
        ThyroidCine(cine).units()


def test_a_table_without_ages_is_refused(cine):
    (cine / "metadata.csv").write_text("annot_id,sex\n8_,Female\n")
    with pytest.raises(UserError, match=r"metadata\.csv: has no column 'age'"):
        ThyroidCine(cine).units()


def test_a_cut_file_is_refused(cine):
    path = cine / "dataset.hdf5"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"dataset\.hdf5: no readable HDF5 file.*download it again"):
        ThyroidCine(cine).units()


def test_a_file_with_other_arrays_is_refused(cine):
    with h5py.File(cine / "dataset.hdf5", "r+") as file:
        del file["frame_num"]
    with pytest.raises(UserError, match="has no array 'frame_num', only annot_id, image, mask"):
        ThyroidCine(cine).units()
    with h5py.File(cine / "dataset.hdf5", "r+") as file:
        file["frame_num"] = np.array([b"1"], dtype="S3")
    with pytest.raises(UserError, match=r"frame_num \(1,\)"):
        ThyroidCine(cine).units()


def test_a_frame_number_that_is_none_is_refused_with_its_row(cine):
    with h5py.File(cine / "dataset.hdf5", "r+") as file:
        file["frame_num"][7] = b"x"
    with pytest.raises(UserError, match="row 7 is malformed"):
        ThyroidCine(cine).units()


def test_it_travels_to_another_process(cine):
    source = ThyroidCine(cine, every=2)
    assert pickle.loads(pickle.dumps(source)).units() == source.units()  # noqa: S301 (its own bytes)
