"""No original value of any identifying attribute leaves an object, in any encoding; hashes need the key."""

import base64
import hashlib
import json
import os
import pickle
import re
import tarfile
from datetime import date, timedelta

import cv2
import numpy as np
import pytest
from made_dicom import KEY, make, region
from pydicom import dcmread
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from arl_lightning.data.dicom.deidentify import KEY_VARIABLE, resolve_key
from arl_lightning.data.packing import pack as packing
from arl_lightning.data.packing.command import pack_sources
from arl_lightning.data.shards.sample import Rejected
from arl_lightning.data.sources.dicom import Dicom
from arl_lightning.errors import UserError

OTHER_KEY = "c0ffee5e1f0d4b7a9d3388aa10275e64b19c7de2406fa8537be1d29c04f6835a"
REGION = region(40, 60, 139, 139)  # the banner lies above it

# What PS3.15 Annex E removes or replaces, with a value each that occurs nowhere else.
IDENTIFYING = {
    "PatientName": "Quesnel^Ottilie^Maria",
    "PatientID": "MRN-7788341",
    "IssuerOfPatientID": "ISSUER-KXW",
    "OtherPatientIDs": "OTH-5544123",
    "PatientBirthDate": "19610312",
    "PatientBirthName": "Vandersteen",
    "PatientMotherBirthName": "Kowalczyk",
    "PatientAddress": "17 Larkspur Lane",
    "PatientTelephoneNumbers": "+49-30-9087612",
    "PatientComments": "sister of Brunhilde",
    "AdditionalPatientHistory": "hemihepatectomy 2003",
    "Occupation": "lamp lighter",
    "MilitaryRank": "Oberstleutnant",
    "EthnicGroup": "Sorbian",
    "AccessionNumber": "ACC-993817",
    "StudyID": "STU-66512",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.11112222",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.33334444",
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.55556666",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.77778888",
    "InstanceCreatorUID": "1.2.826.0.1.3680043.8.498.99990000",
    "StudyDate": "20190124",
    "SeriesDate": "20190125",
    "AcquisitionDateTime": "20190126114254.778",
    "ContentTime": "114259.331",
    "InstitutionName": "St. Barnabas Infirmary",
    "InstitutionAddress": "Hochstrasse 99",
    "InstitutionalDepartmentName": "Sonography East",
    "ReferringPhysicianName": "Abercrombie^Winifred",
    "PerformingPhysicianName": "Okonkwo^Chidi",
    "NameOfPhysiciansReadingStudy": "Lindqvist^Astrid",
    "OperatorsName": "Marchetti^Luca",
    "RequestingPhysician": "Papadopoulos^Eleni",
    "StationName": "USROOM-0417",
    "DeviceSerialNumber": "SN-E95-00381",
    "ManufacturerModelName": "Vivid Sigma 95",
    "SoftwareVersions": "204.57.3-rc",
    "ProtocolName": "liver OTTILIEPROTO",
    "StudyDescription": "liver of Mrs Quesnelle",
    "SeriesDescription": "liver segment Couinaud4",
    "ImageComments": "was uncooperative",
    "PerformedProcedureStepID": "PPS-20190124-9",
    "PerformedProcedureStepDescription": "hepatic followup K17",
    "RequestedProcedureID": "RPQ-771",
    "TransducerData": "C5-1, serial 88-4411",
}


def private(data):
    data.add_new(0x00190010, "LO", "QUESNELLE DATA")
    data.add_new(0x00191050, "LO", "private Zanzibar")
    data.add_new(0x00191051, "UN", b"private Timbuktu")


PRIVATE = ("QUESNELLE DATA", "private Zanzibar", "private Timbuktu")
FOLDERS = "Quesnel_Ottilie/MRN-7788341/20190124"


def screen():
    """A still whose banner holds the name in white, above a region of darker noise."""
    image = np.random.default_rng(0).integers(0, 200, (240, 320), dtype=np.uint8)
    image[:50] = 0
    cv2.putText(image, "QUESNEL OTTILIE 12.03.1961", (5, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1)
    return image


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A still, a cine and a damaged file, in folders that are named after the patient."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    root = tmp_path / "archive"
    attributes = {**IDENTIFYING, "SequenceOfUltrasoundRegions": [REGION], "FrameTime": "500"}
    for name, pixels in (("still", screen()), ("cine", np.stack([screen()] * 5))):
        path = make(root / FOLDERS / name, pixels, **attributes)
        data = dcmread(path)
        private(data)
        nested = Dataset()
        nested.PatientID, nested.RetrieveAETitle = "NESTED-31337", "PACSQUESNEL"
        data.ReferencedPatientSequence = [nested]
        data.save_as(path)
    content = (root / FOLDERS / "still").read_bytes()
    (root / FOLDERS / "Quesnel cut").write_bytes(content[: len(content) // 2])
    return root


def pack(root, out, **options):
    return pack_sources(
        out, source="dicom", root=root, options=options, processes=1, image_format="png", short_side="keep",
        max_bad_share=1.0,
    )  # fmt: skip


def all_bytes(folder):
    return b"\n".join(
        path.read_bytes() + os.fsencode(path.name) for path in sorted(folder.rglob("*")) if path.is_file()
    )


def records(out):
    found = []
    for path in sorted(out.rglob("shard-*.tar")):
        with tarfile.open(path) as tar:
            found += [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]
    return sorted(found, key=lambda record: record["name"])


def images(out):
    for path in sorted(out.rglob("shard-*.tar")):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                if name.endswith(".png"):
                    encoded = np.frombuffer(tar.extractfile(name).read(), np.uint8)
                    yield cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)


def traces(value):
    """Yield the bytes that would give a value away: spellings, encodings, and hashes that anyone can make."""
    turned = value[::-1]
    for text in {value, value.lower(), value.upper(), turned, turned.lower(), turned.upper()}:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", "latin-1"):
            raw = text.encode(encoding, "replace")
            yield raw
            yield raw.hex().encode()
            yield raw.hex().upper().encode()
            for shift in range(3):  # base64 of a longer text that holds the value
                inner = base64.b64encode(b"\0" * shift + raw)[4 * bool(shift) : -4]
                if len(inner) > 6:
                    yield inner
            for kind in ("md5", "sha1", "sha256", "sha512", "blake2b"):
                digest = hashlib.new(kind, raw).digest()
                yield from (digest[:8], digest.hex()[:16].encode(), base64.b64encode(digest)[:12])


def words(value):
    """A value and its parts: a name's components, a comment's words."""
    parts = value.replace("^", " ").replace(",", " ").split()
    return {
        value,
        value.replace("^", " "),
        *(part for part in parts if len(part) >= 6 and part != "hepatic"),
    }


def test_no_identifying_value_is_in_what_packing_writes(archive, tmp_path):
    report = pack(archive, tmp_path / "out")
    written = all_bytes(tmp_path / "out")
    assert len(records(tmp_path / "out")) == 1 + 5  # the still, and at 2 frames/s every frame of 500 ms
    values = set().union(*(words(value) for value in (*IDENTIFYING.values(), *PRIVATE, "NESTED-31337", "PACSQUESNEL")))
    assert len(values) > 80
    for value in values:
        assert [trace for trace in traces(value) if trace in written] == []
        assert value not in report
    for value in (*FOLDERS.split("/"), "Quesnel cut", str(archive), KEY):
        assert [trace for trace in traces(value) if trace in written] == []


def test_the_search_finds_what_it_looks_for():
    for value in ("Quesnel^Ottilie", "MRN-7788341"):
        for leak in (
            value.encode(), value.encode("utf-16-le"), value[::-1].upper().encode(), value.encode().hex().encode(),
            base64.b64encode(b"x" + value.encode() + b"yz"), hashlib.sha256(value.encode()).hexdigest().encode(),
            hashlib.md5(value.lower().encode()).digest(),  # noqa: S324
        ):  # fmt: skip
            assert any(trace in b"..." + leak + b"..." for trace in traces(value))


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, that these values are no proper ones
def test_no_text_attribute_of_the_whole_dictionary_leaves(tmp_path, monkeypatch):
    """Give each attribute of DICOM's dictionary that holds text, a name, a time or a UID a value of its own."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    form = {
        "PN": "Zq{0:04d}^Given", "LO": "Zq{0:04d}Value", "SH": "Zq{0:04d}Val", "LT": "Zq{0:04d}Text",
        "ST": "Zq{0:04d}Text", "UT": "Zq{0:04d}Text", "UC": "Zq{0:04d}Text", "AE": "Zq{0:04d}AE",
        "UI": "1.2.826.77.{0}.4711", "TM": "1234{0:02d}.{1:06d}", "CS": "ZQ{0:04d}CS",
    }  # fmt: skip
    functional = {"SOPClassUID", "Modality", "SpecificCharacterSet", "PhotometricInterpretation", "BodyPartExamined"}
    attributes, values = {}, []
    for number, (tag, (vr, multiplicity, _, retired, keyword)) in enumerate(sorted(DicomDictionary.items())):
        kept = keyword and keyword not in functional and not retired and 0x0008 <= tag >> 16 <= 0x0040
        if not kept or (vr not in form and vr != "DA") or not multiplicity.startswith("1"):
            continue
        day = date(1930, 1, 1) + timedelta(days=number)
        value = day.strftime("%Y%m%d") if vr == "DA" else form[vr].format(number % 60 if vr == "TM" else number, number)
        attributes[keyword] = value
        values += [value.split("^")[0]]
    attributes |= {"SequenceOfUltrasoundRegions": [REGION], "BodyPartExamined": "LIVER", "BurnedInAnnotation": "NO"}
    make(tmp_path / "archive/a", screen(), **attributes)
    pack(tmp_path / "archive", tmp_path / "out")
    assert [record["anatomy"] for record in records(tmp_path / "out")] == ["liver"]
    written = all_bytes(tmp_path / "out").lower()
    assert len(values) > 800
    for value in values:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            assert value.lower().encode(encoding) not in written, value


def test_the_burned_in_banner_is_gone_and_the_region_is_whole(archive, tmp_path):
    pack(archive, tmp_path / "out")
    found = list(images(tmp_path / "out"))
    assert len(found) == 6
    for image in found:
        np.testing.assert_array_equal(image, screen()[60:140, 40:140])


def test_a_record_holds_hashes_and_nothing_else(archive, tmp_path):
    pack(archive, tmp_path / "out")
    *cine, still = sorted(records(tmp_path / "out"), key=lambda record: record["video"] is None)
    assert still["video"] is None
    assert {record["video"] for record in cine} == {resolve_key().hash("object", IDENTIFYING["SOPInstanceUID"])}
    for record in (*cine, still):
        assert record["patient"] == resolve_key().hash("patient", "MRN-7788341", "ISSUER-KXW")
        assert int(record["name"].split("#")[0], 16) >= 0
        assert len(record["name"].split("#")[0]) == 32
        assert record["source"] == "dicom"
        assert record["probe"] is None
        assert record["anatomy"] == "liver"


def test_what_a_killed_packing_leaves_tells_no_path(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "close_work_folder", lambda out: None)
    pack(archive, tmp_path / "out")
    left = all_bytes(tmp_path / "out/.packing")
    assert len(left) > 1000
    for value in (*FOLDERS.split("/"), "Quesnel cut", *IDENTIFYING.values(), KEY):
        assert [trace for trace in traces(value) if trace in left] == []


def names(root, key, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, key)
    source = Dicom(root)
    return [
        (item.name, item.patient, item.video) if hasattr(item, "image") else (str(item.path), None, None)
        for unit in source.units()
        for item in source.read(unit)
    ]


def test_the_same_key_gives_the_same_hashes_and_another_key_others(archive, monkeypatch):
    first = names(archive, KEY, monkeypatch)
    assert names(archive, KEY, monkeypatch) == first
    other = names(archive, OTHER_KEY, monkeypatch)
    assert len(other) == len(first)
    hashes = {value for entry in first for value in entry if value}
    assert hashes.isdisjoint({value for entry in other for value in entry if value})


# ---------------------------------------------------------------- keys and units


def test_without_a_key_dicom_is_refused(archive, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(UserError, match=r"ARL_DEID_KEY: holds no key.*openssl rand"):
        Dicom(archive).units()
    with pytest.raises(UserError, match="ARL_DEID_KEY"):
        pack(archive, tmp_path / "out")
    assert not list((tmp_path).rglob("shard-*.tar"))


def test_neither_a_pickle_nor_a_repr_holds_the_key(archive, tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY, encoding="utf-8")
    path.chmod(0o600)
    source = Dicom(archive, key_file=path)
    assert KEY.encode() not in pickle.dumps((source, list(source.units())))
    assert KEY not in repr(source)
    secret = resolve_key(path)
    assert KEY not in repr(secret) + str(secret)
    with pytest.raises(TypeError, match="must not be pickled"):
        pickle.dumps(secret)


def test_a_pickled_source_reads_its_units_with_the_key_of_the_other_process(archive):
    source, units = pickle.loads(pickle.dumps((Dicom(archive), list(Dicom(archive).units()))))  # noqa: S301
    assert sum(hasattr(item, "image") for unit in units for item in source.read(unit)) == 6


def test_units_of_another_key_are_refused(archive, monkeypatch):
    source = Dicom(archive)
    unit = next(iter(source.units()))
    monkeypatch.setenv(KEY_VARIABLE, OTHER_KEY)
    with pytest.raises(UserError, match="not the key that this packing began with"):
        list(source.read(unit))


def test_the_rejected_files_can_be_found_by_their_hash(archive):
    source = Dicom(archive)
    rejected = [item for unit in source.units() for item in source.read(unit) if isinstance(item, Rejected)]
    assert [item.reason for item in rejected] == ["truncated"]
    paths = {unit.name: source.path_of(unit) for unit in source.units()}
    assert paths[str(rejected[0].path)] == archive / FOLDERS / "Quesnel cut"


def test_a_changed_file_or_rule_changes_a_unit_and_nothing_else(archive, tmp_path):
    before = list(Dicom(archive).units())
    assert list(Dicom(archive).units()) == before
    assert all(re.fullmatch("[0-9a-f]{32}", unit.details[1]) for unit in before)  # no size, no time of a file
    changed = source_file = archive / FOLDERS / "still"
    os.utime(source_file, (1, 1))
    after = list(Dicom(archive).units())
    assert [unit.name for unit in after] == [unit.name for unit in before]
    assert [old != new for old, new in zip(before, after, strict=True)] == [
        Dicom(archive).path_of(unit) == changed for unit in before
    ]
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{anatomy: liver, any: {StudyDescription: [a]}}]", encoding="utf-8")
    other = list(Dicom(archive, rules=rules).units())
    assert all(old != new for old, new in zip(after, other, strict=True))
