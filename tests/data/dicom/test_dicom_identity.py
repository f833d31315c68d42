"""Who a sample is of, as hashes that need the key, and which keys are taken."""

import base64
import hashlib
import hmac
import os
import stat

import cv2
import numpy as np
import pytest
from made_dicom import KEY, STILL, dataset, make, region
from pydicom import dcmread

from arl_lightning.data.dicom.deidentify import KEY_VARIABLE, Secret, resolve_key
from arl_lightning.data.dicom.identity import patient_hash, probe_type
from arl_lightning.data.shards.sample import Sample
from arl_lightning.data.sources.dicom import Dicom
from arl_lightning.errors import UserError

OTHER_KEY = "c0ffee5e1f0d4b7a9d3388aa10275e64b19c7de2406fa8537be1d29c04f6835a"
REGION = region(40, 60, 139, 139)


def screen():
    """A still whose banner holds the name in white, above a region of darker noise."""
    image = np.random.default_rng(0).integers(0, 200, (240, 320), dtype=np.uint8)
    image[:50] = 0
    cv2.putText(image, "QUESNEL OTTILIE 12.03.1961", (5, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1)
    return image


def test_a_patient_is_told_across_objects_and_issuers_apart(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    regions = {"SequenceOfUltrasoundRegions": [REGION]}
    for name, patient, issuer in (("a", "1", "A"), ("b", "1 ", "A"), ("c", "1", "B"), ("d", "", "A"), ("e", "", "A")):
        study = "1.2.3" if name in "de" else "1.2.4"
        make(
            tmp_path / "in" / name, screen(), PatientID=patient, IssuerOfPatientID=issuer, StudyInstanceUID=study,
            **regions,
        )  # fmt: skip
    source = Dicom(tmp_path / "in")
    a, b, c, d, e = [
        next(item for item in source.read(unit) if isinstance(item, Sample)).patient for unit in source.units()
    ]
    assert a == b
    assert len({a, c, d}) == 3
    assert d == e  # without an ID the study stands for the patient


@pytest.mark.parametrize(("patient", "study", "same"), [("A", "1.2", False), ("", "1.2", True), ("", "", False)])
def test_who_has_neither_number_nor_study_is_nobody(patient, study, same):
    secret = resolve_key(environment={KEY_VARIABLE: KEY})
    data = dataset(STILL)
    data.PatientID, data.StudyInstanceUID = patient, study
    expected = secret.hash("patient", "A", "") if patient else secret.hash("study", "1.2") if same else None
    assert patient_hash(data, secret) == expected


def test_a_backslash_in_a_number_makes_no_two_patients_one():
    secret = resolve_key(environment={KEY_VARIABLE: KEY})
    hashes = set()
    for patient, issuer in (("A", ""), ("A\\B", ""), ("A\\C", ""), ("A", "X\\Y"), ("A", "X\\Z")):
        data = dataset(STILL)
        data.PatientID, data.IssuerOfPatientID = patient, issuer
        hashes.add(patient_hash(data, secret))
    assert len(hashes) == 5


def test_a_cine_without_a_uid_is_told_by_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    frames = np.stack([screen()] * 2)
    data = dcmread(make(tmp_path / "a", frames, FrameTime="500", SequenceOfUltrasoundRegions=[REGION]))
    del data.SOPInstanceUID
    data.save_as(tmp_path / "a")
    source = Dicom(tmp_path)
    (unit,) = source.units()
    assert [item.video for item in source.read(unit) if isinstance(item, Sample)] == [unit.name] * 2


@pytest.mark.parametrize(
    ("attributes", "probe"),
    [
        ({"TransducerType": "LINEAR"}, "linear"),
        ({"TransducerType": "CURVED LINEAR"}, "convex"),
        ({"TransducerType": "SECTOR_PHASED"}, "sector"),
        ({"TransducerType": "PHASED ARRAY"}, "sector"),
        ({"TransducerData": ["C5-1", "CONVEX"]}, "convex"),
        ({"TransducerType": "LINEAR", "TransducerData": "CONVEX"}, "linear"),
        ({"TransducerData": "C5-1"}, None),
    ],
)
def test_a_probe_is_a_word_of_a_fixed_list(attributes, probe):
    data = dataset(STILL)
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    assert probe_type(data) == probe


# ---------------------------------------------------------------- the key


def guessable():
    digits, letters = "0123456789", "abcdefghijklmnopqrstuvwxyz"
    yield from ("short", "a" * 64, "0" * 64, "1212121212" * 7, KEY[:-1], "12345678" * 8, (digits + "abcdef") * 4)
    yield from (KEY[:32], KEY[:48], KEY[:40] * 2, KEY[:32] * 2)
    yield from (letters + letters.upper(), letters + letters.upper() + digits, (letters + digits)[::-1] * 2)
    yield "the quick brown fox jumps over the lazy dog 1234567890 times"
    yield "thequickbrownfoxjumpsoverthelazydogthequick"[:30] * 2
    yield "thesecretkeyofourhospitalisneverseenbyanyone"
    yield "0011223344556677889900112233445566778899aabbccddeeff001122334455"


@pytest.mark.parametrize("key", guessable())
def test_a_key_that_can_be_guessed_is_refused_without_showing_it(key, tmp_path):
    with pytest.raises(UserError, match="can be guessed") as caught:
        resolve_key(environment={KEY_VARIABLE: key})
    assert key not in str(caught.value)


def test_random_keys_of_256_bits_are_taken(tmp_path):
    draw = np.random.default_rng(0)
    for _ in range(300):
        for key in (draw.bytes(32).hex(), draw.bytes(48).hex().upper(), base64.b64encode(draw.bytes(32)).decode(),
                    base64.urlsafe_b64encode(draw.bytes(32)).decode().rstrip("=")):  # fmt: skip
            resolve_key(environment={KEY_VARIABLE: f"{key}\n"})


def key_file(path, content, mode=0o600):
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)
    return path


def test_a_key_file_counts_before_the_variable(tmp_path):
    path = key_file(tmp_path / "key", OTHER_KEY + "\n")
    both = resolve_key(path, {KEY_VARIABLE: KEY})
    assert both.hash("x", "y") == resolve_key(environment={KEY_VARIABLE: OTHER_KEY}).hash("x", "y")


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_key_file_that_others_read_is_refused(tmp_path):
    with pytest.raises(UserError, match="chmod 600"):
        resolve_key(key_file(tmp_path / "key", KEY, stat.S_IRUSR | stat.S_IRGRP))


@pytest.mark.parametrize("content", [None, ""])
def test_a_missing_or_empty_key_file_is_refused(content, tmp_path):
    path = tmp_path / "key" if content is None else key_file(tmp_path / "key", content)
    with pytest.raises(UserError, match=str(path)):
        resolve_key(path, {KEY_VARIABLE: KEY})


def test_a_hash_is_an_hmac_of_purpose_and_values():
    # Each part is preceded by its length in 8 bytes; the key is hashed with a prefix first.
    key = hashlib.sha256(b"arl-dicom\0" + KEY.encode()).digest()
    message = b"".join(len(part).to_bytes(8, "big") + part for part in (b"patient", b"12", b"3"))
    expected = hmac.new(key, message, hashlib.sha256).hexdigest()[:32]
    secret = resolve_key(environment={KEY_VARIABLE: KEY})
    assert secret.hash("patient", "12", "3") == expected
    assert len({secret.hash("patient", "12", "3"), secret.hash("patient", "1", "23"), secret.hash("x", "12", "3")}) == 3


def test_no_two_parts_of_a_seal_are_masked_alike():
    sealed = bytes.fromhex(Secret(b"k" * 32).seal("Quesnel/" * 12))
    blocks = [sealed[start : start + 32] for start in range(16, 112, 32)]  # of three equal ones
    assert len(set(blocks)) == 3


@pytest.mark.parametrize("text", ["", "a", "Quesnel/" * 40, "Müller/\udcff.dcm"])
def test_a_seal_opens_with_its_key_alone(text):
    secret, other = Secret(b"k" * 32), Secret(b"l" * 32)
    sealed = secret.seal(text)
    assert secret.unseal(sealed) == text
    assert secret.seal(text) == sealed
    assert not text or text.encode("utf-8", "surrogateescape") not in bytes.fromhex(sealed)
    with pytest.raises(UserError):
        other.unseal(sealed)
