"""What counts as an object, what is refused and with which words, and the two ways to list an archive."""

import warnings

import numpy as np
import pytest
from made_dicom import CINE, STILL, dataset, jpeg, make
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, generate_uid

from arl_lightning.data.dicom.anatomy_rules import describe
from arl_lightning.data.dicom.header import text
from arl_lightning.data.dicom.listing import find_objects
from arl_lightning.data.dicom.objects import open_object
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.media import UnreadableError
from arl_lightning.errors import UserError

PICTURE = np.random.default_rng(0).integers(0, 256, (3, 40, 48), dtype=np.uint8)
NAME = "Quesnel^Ottilie"


def refusal(path, secondary_capture=False):
    with pytest.raises(UnreadableError) as caught, open_object(path, secondary_capture) as source:
        Frames(source)
    assert "Quesnel" not in str(caught.value)
    return str(caught.value)


def write(path, content):
    path.write_bytes(content)
    return path


def test_an_empty_file_is_told(tmp_path):
    assert refusal(write(tmp_path / "a", b"")) == "empty file"


@pytest.mark.parametrize("content", [b"hello", b"\0" * 4000, b"\xff\xd8\xff\xe0" + b"x" * 300, NAME.encode() * 40])
def test_other_files_are_not_dicom(content, tmp_path):
    assert refusal(write(tmp_path / "a", content)) == "not DICOM"


def test_a_missing_file_is_told(tmp_path):
    assert refusal(tmp_path / "a") == "missing"


def test_a_cms_envelope_is_encrypted(tmp_path):
    # ContentInfo { envelopedData, ... } of RFC 5652, with a long and a short length.
    for head in (b"\x30\x83\x01\x02\x03", b"\x30\x82\x0f\xa0", b"\x30\x80"):
        envelope = head + bytes.fromhex("06092a864886f70d010703") + b"\xa0\x80" + bytes(range(256)) * 8
        assert refusal(write(tmp_path / "a", envelope)) == "encrypted (CMS envelope)"


@pytest.mark.parametrize("modality", ["CT", "SR", "MR"])
def test_other_modalities_are_named(modality, tmp_path):
    assert refusal(make(tmp_path / "a", PICTURE, Modality=modality)) == f"modality {modality}, not US"


def test_a_modality_that_is_none_is_not_quoted(tmp_path):
    assert refusal(make(tmp_path / "a", PICTURE, Modality="QUESNEL OTTILIE")) == "modality unknown, not US"


def test_a_report_is_no_picture(tmp_path):
    path = make(tmp_path / "a", PICTURE, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    assert refusal(path) == "SOP class Comprehensive SR Storage, not an ultrasound image"
    path = make(tmp_path / "b", PICTURE, SOPClassUID="1.2.3.4.5.6")
    assert refusal(path) == "SOP class unknown, not an ultrasound image"


def test_secondary_captures_are_an_option(tmp_path):
    path = make(tmp_path / "a", PICTURE[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    assert refusal(path) == "secondary capture (option secondary_capture)"
    with open_object(path, secondary_capture=True) as source:
        assert Frames(source).num_frames == 1
    path = make(tmp_path / "b", PICTURE[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="CT")
    assert refusal(path, secondary_capture=True) == "modality CT, not US"
    path = make(tmp_path / "c", PICTURE[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="")
    assert "not an ultrasound image" in refusal(path, secondary_capture=True)


def test_an_object_without_pixels_is_told(tmp_path):
    data = dataset(STILL)
    data.PatientName, data.Rows, data.Columns = NAME, 40, 48
    data.save_as(tmp_path / "a", enforce_file_format=True)
    assert refusal(tmp_path / "a") == "no pixel data"
    assert refusal(make(tmp_path / "b", PICTURE, PixelData=b"")) == "empty pixel data"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_cut_object_is_truncated(syntax, share, tmp_path):
    content = make(tmp_path / "a", PICTURE, syntax).read_bytes()
    assert refusal(write(tmp_path / "b", content[: int(len(content) * share)])) == "truncated"


@pytest.mark.parametrize("bytes_lost", [9, 1500, 3000])
def test_a_cut_compressed_object_is_truncated(bytes_lost, tmp_path):
    content = make(tmp_path / "a", PICTURE, **jpeg(PICTURE)).read_bytes()
    assert refusal(write(tmp_path / "b", content[:-bytes_lost])) == "truncated"


def test_an_object_cut_in_its_header_is_truncated(tmp_path):
    content = make(tmp_path / "a", PICTURE, StudyDescription="liver " * 8).read_bytes()
    place = content.index(b"liver")
    assert refusal(write(tmp_path / "b", content[: place + 20])) == "truncated"


@pytest.mark.filterwarnings("error")
def test_damage_of_a_header_is_told_without_its_values(tmp_path, caplog, capfd):
    content = bytearray(make(tmp_path / "a", PICTURE, PatientName=NAME, StudyDescription="liver").read_bytes())
    draw = np.random.default_rng(0)
    opened, reasons = 0, []
    for _ in range(200):
        damaged = bytearray(content)
        for place in draw.integers(140, 700, 6):
            damaged[place] = draw.integers(256)
        write(tmp_path / "b", bytes(damaged))
        try:
            with open_object(tmp_path / "b") as source:
                describe(source.header)
                Frames(source).decode(0)
            opened += 1
        except UnreadableError as error:
            reasons.append(str(error))
    assert "Quesnel" not in "".join(reasons)
    assert 0 < opened < 200
    # pydicom's warnings and log lines quote the values that they are about.
    assert caplog.text == "".join(capfd.readouterr()) == ""


def meta_end(content):
    """Return where the file meta information ends: after preamble, DICM, the group's length, and what that counts."""
    return 132 + 12 + int.from_bytes(content[140:144], "little")


def test_a_deflated_stream_that_is_damaged_is_told(tmp_path):
    content = bytearray(make(tmp_path / "a", PICTURE, DeflatedExplicitVRLittleEndian).read_bytes())
    content[meta_end(content)] = 0b111  # a last block of the kind that does not exist
    assert refusal(write(tmp_path / "b", bytes(content))) == "damaged deflate stream"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_objects_from_before_the_file_format_are_read(syntax, tmp_path):
    content = make(tmp_path / "a", PICTURE, syntax).read_bytes()
    write(tmp_path / "b", content[meta_end(content) :])
    with open_object(tmp_path / "b") as source:
        np.testing.assert_array_equal(Frames(source).decode(1), PICTURE[1])


def test_nothing_but_what_is_needed_is_read(tmp_path):
    path = make(
        tmp_path / "a", PICTURE, PatientName=NAME, InstitutionName="Quesnel Clinic", PatientBirthDate="19610312"
    )
    with open_object(path) as source:
        assert "Quesnel" not in str(source.header)
        assert "19610312" not in str(source.header)


def test_a_folder_is_listed_in_order_without_hidden_files(tmp_path):
    for name in ("b/2.dcm", "b/10.dcm", "a/x", "DICOMDIR", "b/.hidden", ".cache/y", "c"):
        write_to = tmp_path / name
        write_to.parent.mkdir(exist_ok=True)
        write_to.write_bytes(b"x")
    assert list(find_objects(tmp_path)) == ["c", "a/x", "b/10.dcm", "b/2.dcm"]


def test_a_missing_root_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_objects(tmp_path / "none")


def file_set(folder):
    """Write a medium: a DICOMDIR with two objects, and a third that it does not list."""
    files = FileSet()
    for number in range(2):
        data = dataset(CINE)
        data.PatientName, data.StudyDate, data.StudyTime, data.StudyID = NAME, "20200101", "120000", "1"
        data.SeriesInstanceUID, data.SeriesNumber, data.InstanceNumber = generate_uid(), 1, number + 1
        data.AccessionNumber = "7"
        made = make(folder / "tmp", PICTURE, **{element.keyword: element.value for element in data})
        files.add(made)
        made.unlink()
    files.write(folder)
    make(folder / "UNLISTED", PICTURE)
    return folder / "DICOMDIR"


def test_a_dicomdir_lists_its_objects_alone(tmp_path):
    listed = list(find_objects(file_set(tmp_path)))
    assert len(listed) == 2
    assert "UNLISTED" not in listed
    for path in listed:
        with open_object(tmp_path / path) as source:
            assert Frames(source).num_frames == 3


def test_a_dicomdir_may_lie_behind_a_link(tmp_path):
    file_set(tmp_path / "medium")
    (tmp_path / "mounted").symlink_to(tmp_path / "medium")
    assert len(list(find_objects(tmp_path / "mounted/DICOMDIR"))) == 2


def test_a_medium_mounted_in_lower_case_is_read(tmp_path):
    dicomdir = file_set(tmp_path)
    listed = list(find_objects(dicomdir))
    for path in listed:
        target = tmp_path / path.lower()
        target.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).rename(target)
    assert list(find_objects(dicomdir)) == [path.lower() for path in listed]


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, that these are no proper values
@pytest.mark.parametrize("path", [["..", "..", "ETC", "PASSWD"], ["LINK", "B"], ["LINK"], None])
def test_a_dicomdir_must_not_lead_out_of_its_folder(path, tmp_path):
    dicomdir = file_set(tmp_path / "medium")
    make(tmp_path / "outside/B", PICTURE)
    (tmp_path / "medium/LINK").symlink_to(tmp_path / "outside" / "B" if path == ["LINK"] else tmp_path / "outside")
    data = dcmread(dicomdir)
    for record in data.DirectoryRecordSequence:
        if "ReferencedFileID" in record:  # without any of these, as an absolute path that stays inside
            record.ReferencedFileID = path or str(tmp_path / "medium/UNLISTED")
    data.save_as(dicomdir)
    with pytest.raises(UserError, match="outside"):
        find_objects(dicomdir)


def test_a_file_that_is_no_dicomdir_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a DICOMDIR"):
        find_objects(make(tmp_path / "a.dcm", PICTURE))
    with pytest.raises(UserError, match="not a DICOMDIR"):
        find_objects(write(tmp_path / "b", b"text"))


@pytest.mark.filterwarnings("error")
def test_a_value_that_pydicom_warns_of_is_read(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = make(tmp_path / "a", PICTURE, PatientID="7" * 70)  # a Long String has up to 64 characters
    with open_object(path) as source:
        assert text(source.header, "PatientID") == "7" * 70


def test_a_damaged_sequence_counts_as_missing(tmp_path):
    path = make(tmp_path / "a", PICTURE, SequenceOfUltrasoundRegions=[Dataset()])
    with open_object(path) as source:
        assert len(source.header.SequenceOfUltrasoundRegions) == 1
