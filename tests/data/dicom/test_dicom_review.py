"""The survey's table, and where review sheets go and what they show."""

import cv2
import numpy as np
import pytest
from made_dicom import KEY, REGION, archive, code, fan, make
from pydicom import dcmread

from arl_lightning.data.dicom import area
from arl_lightning.data.dicom.deidentify import KEY_VARIABLE
from arl_lightning.data.dicom.review import write_review
from arl_lightning.data.dicom.survey import survey
from arl_lightning.data.shards.manifest import Manifest, ShardInfo
from arl_lightning.data.sources.dicom import Dicom
from arl_lightning.errors import UserError

SHARD = ShardInfo("shard-000000.tar", 1, 10240, "0" * 64, {"liver": 1})

SHARD = ShardInfo("shard-000000.tar", 1, 10240, "0" * 64, {"liver": 1})


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def test_the_survey_says_what_matched_what(tmp_path):
    found = survey(Dicom(archive(tmp_path)))
    assert (found.num_files, found.num_objects, found.num_frames, found.num_stored_frames) == (9, 3, 4, 12)
    counted = {
        name.split(None, 1)[-1]: (count.anatomy, count.objects, count.frames) for name, count in found.rules.items()
    }
    assert counted == {
        "thyroid by region": ("thyroid", 1, 2),
        "liver by exam": ("liver", 1, 1),
        "rule)": ("other", 1, 1),
    }
    assert found.rejected["truncated"] == found.rejected["modality CT, not US"] == 1
    assert sum(found.rejected.values()) == 6
    assert found.regions == {"stated": 3}
    assert found.kinds == {"B-mode": 2, "Doppler": 1}
    assert found.looked_at == {"kept by regions": 3}


def test_the_table_shows_rules_exams_and_reasons(tmp_path):
    lines = str(survey(Dicom(archive(tmp_path)))).splitlines()
    assert any("liver by exam" in line and "US LIVER (1)" in line for line in lines)
    assert any("(no rule)" in line and "other" in line for line in lines)
    assert any(line.split(None, 1) == ["1", "truncated"] for line in lines)


def test_the_survey_counts_what_the_detectors_do(tmp_path):
    make(tmp_path / "a", fan())
    make(tmp_path / "b", np.zeros((300, 400), np.uint8))
    written = fan()
    cv2.putText(written, "OTTILIE", (150, 180), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 1)
    make(tmp_path / "c", written, SequenceOfUltrasoundRegions=[REGION], BurnedInAnnotation="YES")
    found = survey(Dicom(tmp_path))
    assert found.looked_at == {
        "kept by the detected outline": 1,
        f"rejected: {area.NOT_SURE}": 1,
        "kept by regions": 1,
        "text seen in what is kept": 1,
        "BurnedInAnnotation is YES": 1,
    }
    assert survey(Dicom(tmp_path), num_looked_at=1).looked_at.total() in (1, 3)


def test_a_terminal_is_safe_from_descriptions(tmp_path):
    make(tmp_path / "a", fan(), ProcedureCodeSequence=[code("1", "L", "x")], StudyDescription="liver \x1b[31m red")
    assert "\x1b" not in str(survey(Dicom(tmp_path)))


def test_a_review_shows_what_is_removed_and_finds_files(tmp_path):
    root, folder = archive(tmp_path / "in"), tmp_path / "review"
    written = fan()
    cv2.putText(written, "OTTILIE", (150, 180), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 1)
    make(root / "a/text", written, SequenceOfUltrasoundRegions=[REGION])
    source = Dicom(root)
    review = write_review(source, folder)
    assert (review.num_objects, review.num_flagged, len(review.sheets)) == (4, 1, 1)
    assert folder.stat().st_mode & 0o077 == 0
    sheet = cv2.imread(str(review.sheets[0]))
    assert ((sheet[..., 1] > 200) & (sheet[..., 0] < 50) & (sheet[..., 2] < 50)).sum() > 1000  # green outlines
    rows = [line.split("\t") for line in (folder / "paths.tsv").read_text(encoding="utf-8").splitlines()]
    assert dict(rows[1:]) == {unit.name: str(source.path_of(unit)) for unit in source.units()}
    flagged = (folder / "review-flagged.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[1:] for line in flagged[1:]] == [[str(root / "a/text"), "text seen in what is kept"]]


@pytest.mark.parametrize(
    "present",
    [
        ["manifest.json"],
        ["train/manifest.json"],
        ["a/manifest.json", "b/manifest.json"],
        ["shard-0.tar"],
        [".packing/x"],
    ],
)
def test_review_sheets_never_go_among_shards(present, tmp_path):
    root, corpus = archive(tmp_path / "in"), tmp_path / "a/corpus"
    for path in present:
        (corpus / path).parent.mkdir(parents=True, exist_ok=True)
        Manifest((SHARD,), "packing 1").save((corpus / path).parent)
        (corpus / path).parent.joinpath("manifest.json").replace(corpus / path)
    inside = corpus / present[0]
    for folder in (corpus, corpus / "review", inside.parent / "review", inside.parent / "some/where/deep"):
        with pytest.raises(UserError, match="holds shards"):
            write_review(Dicom(root), folder)
    link = tmp_path / "link"
    (inside.parent / "some").mkdir()
    link.symlink_to(inside.parent / "some")
    with pytest.raises(UserError, match="holds shards"):
        write_review(Dicom(root), link / "review")
    assert not list(tmp_path.rglob("paths.tsv"))
    assert write_review(Dicom(root), tmp_path / "elsewhere/deep/down").num_objects == 3


def test_a_corpus_beside_the_review_is_none_around_it(tmp_path):
    for name in ("corpus", "other", "page"):
        (tmp_path / name).mkdir()
        Manifest((SHARD,), name).save(tmp_path / name)
    (tmp_path / "page/manifest.json").write_text('{"name": "a web page"}')
    assert write_review(Dicom(archive(tmp_path / "in")), tmp_path / "review").num_objects == 3


def test_a_folder_with_other_files_is_left_as_it_is(tmp_path):
    root, folder = archive(tmp_path / "in"), tmp_path / "desk"
    folder.mkdir(mode=0o755)
    (folder / "letter").write_text("x")
    with pytest.raises(UserError, match="is not empty"):
        write_review(Dicom(root), folder)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in folder.iterdir()] == ["letter"]


def test_a_review_of_some_objects_draws_that_many(tmp_path):
    for number in range(15):
        make(tmp_path / f"in/{number:02d}", fan(seed=number))
    review = write_review(Dicom(tmp_path / "in"), tmp_path / "review", num_objects=13)
    assert (review.num_objects, len(review.sheets)) == (13, 2)
    assert len((tmp_path / "review/paths.tsv").read_text().splitlines()) == 16


def test_the_made_objects_are_what_they_claim(tmp_path):
    data = dcmread(make(tmp_path / "a", fan(), SequenceOfUltrasoundRegions=[REGION]))
    assert (data.Modality, data.Rows, data.Columns) == ("US", 300, 400)
