"""Anatomy rules: the first match wins, words are whole, the shipped file maps real exams, mistakes are named."""

import pytest
from made_dicom import CINE, code, dataset
from pydicom.dataset import Dataset

from arl_lightning.data.anatomy import ANATOMIES
from arl_lightning.data.dicom.anatomy_rules import describe, first_match, load_rules
from arl_lightning.errors import UserError


def exam(**attributes):
    data = dataset(CINE)
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    return describe(data)


def rules(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_rules(path)


def told(rule_list, **attributes):
    rule = first_match(rule_list, exam(**attributes))
    return rule.anatomy if rule else None


TWO = """
rules:
  - {anatomy: liver, any: {StudyDescription: [liver]}}
  - {anatomy: kidney, any: {StudyDescription: [kidney, liver]}}
"""


def test_the_first_match_wins(tmp_path):
    assert told(rules(tmp_path, TWO), StudyDescription="US kidney and liver") == "liver"
    assert told(rules(tmp_path, TWO), StudyDescription="US kidney") == "kidney"
    assert told(rules(tmp_path, TWO), StudyDescription="US spleen") is None


def test_words_are_whole_and_stars_are_their_rest(tmp_path):
    mine = rules(tmp_path, "rules: [{anatomy: liver, any: {StudyDescription: [liver, 'hepat*', '*sono liver*']}}]")
    assert told(mine, StudyDescription="delivery") is None
    assert told(mine, StudyDescription="LIVER, left lobe") == "liver"
    assert told(mine, StudyDescription="Hepatology") == "liver"
    assert told(mine, StudyDescription="nonhepatic") is None


def test_case_accents_and_punctuation_do_not_count(tmp_path):
    mine = rules(tmp_path, "rules: [{anatomy: thyroid, any: {SeriesDescription: ['schilddrüse', 'soft-part neck']}}]")
    assert told(mine, SeriesDescription="SCHILDDRUSE re.") == "thyroid"
    assert told(mine, SeriesDescription="Soft_Part/NECK") == "thyroid"


def test_all_conditions_must_hold_beside_one_of_any(tmp_path):
    mine = rules(
        tmp_path,
        "rules: [{anatomy: kidney, all: {BodyPartExamined: [ABDOMEN]}, any: {SeriesDescription: [renal, kidney]}}]",
    )
    assert told(mine, BodyPartExamined="ABDOMEN", SeriesDescription="renal") == "kidney"
    assert told(mine, BodyPartExamined="NECK", SeriesDescription="renal") is None
    assert told(mine, BodyPartExamined="ABDOMEN", SeriesDescription="x") is None


def test_codes_are_compared_whole_with_or_without_their_scheme(tmp_path):
    mine = rules(tmp_path, "rules: [{anatomy: breast, any: {codes: ['SCT:76752008', T-04000]}}]")
    assert told(mine, AnatomicRegionSequence=[code("76752008", "SCT")]) == "breast"
    assert told(mine, AnatomicRegionSequence=[code("76752008", "SRT")]) is None
    assert told(mine, ProcedureCodeSequence=[code("T-04000", "SNM3")]) == "breast"
    assert told(mine, ProcedureCodeSequence=[code("T-040001", "SNM3")]) is None


def test_meanings_of_codes_are_descriptions(tmp_path):
    mine = rules(tmp_path, "rules: [{anatomy: aorta, any: {descriptions: [aorta]}}]")
    assert told(mine, ProcedureCodeSequence=[code("17", "99LOCAL", "US Aorta screening")]) == "aorta"


def test_the_order_of_an_image_is_read(tmp_path):
    request = Dataset()
    request.RequestedProcedureDescription = "Aorta"
    mine = rules(tmp_path, "rules: [{anatomy: aorta, any: {RequestedProcedureDescription: [aorta]}}]")
    assert told(mine, RequestAttributesSequence=[request]) == "aorta"


def test_the_sop_class_is_told_by_uid_or_words(tmp_path):
    for pattern in (CINE, "multi frame"):
        mine = rules(tmp_path, f"rules: [{{anatomy: cardiac, any: {{SOPClassUID: ['{pattern}']}}}}]")
        assert told(mine) == "cardiac"


@pytest.mark.parametrize(
    ("anatomy", "attributes"),
    [
        ("breast", {"BodyPartExamined": "BREAST"}),
        ("thyroid", {"StudyDescription": "US Thyroid/Neck"}),
        ("thyroid", {"StudyDescription": "Echo thyroïde"}),
        ("cardiac", {"StudyDescription": "TTE complete"}),
        ("cardiac", {"StudyDescription": "ECHO"}),
        ("cardiac", {"ProcedureCodeSequence": [code("1", "99", "Transesophageal Echocardiogram")]}),
        ("cardiac", {"AnatomicRegionSequence": [code("T-32000", "SRT")]}),
        ("abdominal", {"StudyDescription": "US ABDOMEN COMPLETE liver"}),
        ("liver", {"StudyDescription": "US ABDOMEN", "SeriesDescription": "Leber"}),
        ("liver", {"StudyDescription": "US liver"}),
        ("kidney", {"StudyDescription": "US RENAL BILATERAL"}),
        ("gallbladder", {"SeriesDescription": "gall bladder"}),
        ("bladder", {"StudyDescription": "Harnblase"}),
        ("testicle", {"BodyPartExamined": "SCROTUM"}),
        ("aorta", {"StudyDescription": "AAA screening"}),
        ("lung", {"StudyDescription": "Lung ultrasound"}),
        ("muscle", {"StudyDescription": "MSK shoulder left"}),
        ("esophageal", {"StudyDescription": "EUS oesophagus"}),
        ("soft_tissue", {"StudyDescription": "US soft tissue"}),
        ("oncology", {"StudyDescription": "Tumor follow-up"}),
        ("abdominal", {"ImageType": ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"]}),
        ("other", {"StudyDescription": "OB anomaly scan, fetal heart"}),
        ("other", {"StudyDescription": "Transvaginal pelvis"}),
        (None, {"StudyDescription": "Delivery note"}),
        (None, {"SeriesDescription": "long axis"}),
        (None, {}),
    ],
)
def test_the_shipped_rules_know_common_exams(anatomy, attributes):
    assert told(load_rules(), **attributes) == anatomy


def test_the_shipped_rules_reach_every_anatomy_but_doppler():
    assert {rule.anatomy for rule in load_rules()} == {*ANATOMIES, "other"} - {"doppler"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: []", "has no list `rules`"),
        ("- a", "has no list `rules`"),
        ("rules: [{anatomy: liver}]", "rule 1: needs `anatomy` and one of"),
        ("rules: [{anatomy: livre, any: {codes: [a]}}]", "rule 1: anatomy 'livre' .*did you mean 'liver'"),
        ("rules: [{anatomy: liver, any: {StudyDescripton: [a]}}]", "rule 1: .*did you mean 'StudyDescription'"),
        (TWO + "  - {anatomy: liver, any: {codes: []}}", "rule 3: codes needs a list of patterns"),
        (TWO + "  - {anatomy: liver, any: {StudyDescription: ['**']}}", "rule 3: pattern .* holds no letter"),
        (TWO + "  - {anatomy: liver, any: [liver]}", "rule 3: `any` and `all` hold"),
        (TWO + "  - {anatomy: liver, when: {codes: [a]}, any: {codes: [a]}}", "rule 3: key 'when' is unknown"),
        ("rules: [\n{anatomy: liver,\n any: ]", "line 3 is not YAML"),
        ("rule: [{anatomy: liver, any: {codes: [a]}}]", "has no list `rules`"),
    ],
)
def test_a_wrong_file_is_refused_by_name_rule_and_fix(text, message, tmp_path):
    with pytest.raises(UserError, match=rf"mine\.yaml: .*{message}|mine\.yaml: {message}"):
        rules(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        load_rules(tmp_path / "none.yaml")
