import pickle
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from scipy.io import savemat

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.hmc_qu import HmcQu, patient_of
from arl_lightning.errors import UserError

SEGMENTS = ("SEG1", "SEG2", "SEG3", "SEG5", "SEG6", "SEG7")


def write_workbook(path: Path, names: list[str], last_column: str, footnote: str | None = None) -> None:
    """Two rows of headings, a row a recording, a footnote in the first column, as released."""
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.append(["ECHO", *["Segments"] * 6, "One cardiac-cycle frames", None, last_column])
    sheet.append([None, *SEGMENTS, "Reference Frame", "End of Cycle", None])
    for name in names:
        sheet.append([name, *["MI"] * 6, 3, 30, "ü"])
    if footnote:
        sheet.append([footnote])
    workbook.save(path)


@pytest.fixture
def root(tmp_path, write_clip) -> Path:
    """Two patients of 2 s at 25 frames/s; the first has both views, the second the four-chamber view."""
    for view, stems in {"A4C": ["ES0001 _4CH_1", "ES0002 _4CH_1"], "A2C": ["ES0001 _2CH_1"]}.items():
        folder = tmp_path / "HMC-QU" / view
        folder.mkdir(parents=True)
        for stem in stems:
            write_clip(folder / f"{stem}.avi")
    masks = tmp_path / "LV Ground-truth Segmentation Masks"
    masks.mkdir()
    savemat(masks / "Mask_ES0001 _4CH_1.mat", {"predicted": np.ones((28, 64, 64))})
    mask_column = "LV Wall Ground-truth Segmentation Masks"
    write_workbook(tmp_path / "A4C.xlsx", ["ES0001 _4CH_1", "ES0002  _4CH_1"], mask_column)
    write_workbook(tmp_path / "A2C.xlsx", ["ES0001 _2CH_1"], "", footnote="* segments by the 17-segment model")
    return tmp_path


def read_all(source: HmcQu) -> tuple[list[Sample], list[Rejected]]:
    results = [result for unit in source.units() for result in source.read(unit)]
    rejected = [result for result in results if isinstance(result, Rejected)]
    return [result for result in results if isinstance(result, Sample)], rejected


def test_both_views_of_a_patient_share_the_patient(root):
    samples, rejected = read_all(HmcQu(root))
    assert not rejected
    assert {(sample.patient, sample.video) for sample in samples} == {
        ("ES0001", "HMC-QU/A2C/ES0001 _2CH_1.avi"),
        ("ES0001", "HMC-QU/A4C/ES0001 _4CH_1.avi"),
        ("ES0002", "HMC-QU/A4C/ES0002 _4CH_1.avi"),
    }
    assert len(samples) == 3 * 10  # 2 s at 5 frames/s
    second = samples[1]
    assert (second.name, second.frame) == ("HMC-QU/A2C/ES0001 _2CH_1.avi#000005", 5)
    assert (second.anatomy, second.source, second.probe, second.spacing_mm) == ("cardiac", "hmc_qu", "sector", None)
    assert np.abs(second.image.astype(int) - 4 * 5).max() <= 3  # frame 5 is of level 20


@pytest.mark.parametrize(
    ("stem", "patient"), [("ES0001 _4CH_1", "ES0001"), ("ES0012_2CH_2", "ES0012"), (" es0104 _4CH_1", "ES0104")]
)
def test_the_patient_is_the_name_before_the_first_blank_or_underscore(stem, patient):
    assert patient_of(stem) == patient


def test_one_view_needs_neither_the_other_folder_nor_its_workbook(root):
    (root / "A2C.xlsx").unlink()
    samples, _ = read_all(HmcQu(root, views=("A4C",)))
    assert {sample.video for sample in samples} == {"HMC-QU/A4C/ES0001 _4CH_1.avi", "HMC-QU/A4C/ES0002 _4CH_1.avi"}


def test_a_missing_and_a_cut_recording_are_rejected_once_each_and_the_rest_is_read(root, write_clip):
    (root / "HMC-QU/A2C/ES0001 _2CH_1.avi").unlink()
    cut = write_clip(root / "HMC-QU/A4C/ES0001 _4CH_1.avi", noise=True)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    samples, rejected = read_all(HmcQu(root))
    assert [one.path for one in rejected] == [root / "HMC-QU/A2C/ES0001 _2CH_1.avi", cut]
    assert sum(sample.patient == "ES0002" for sample in samples) == 10


def test_a_recording_that_no_workbook_lists_is_read(root, write_clip):
    write_clip(root / "HMC-QU/A2C/ES0099 _2CH_1.avi")
    samples, rejected = read_all(HmcQu(root))
    assert not rejected
    assert sum(sample.patient == "ES0099" for sample in samples) == 10


def test_errors_name_what_is_missing_and_where_to_ask(root):
    write_workbook(root / "A2C.xlsx", [], "")
    workbook = openpyxl.load_workbook(root / "A2C.xlsx")
    workbook.active["A1"] = "NAME"
    workbook.save(root / "A2C.xlsx")
    with pytest.raises(UserError, match=r"A2C.xlsx: has no column 'ECHO'.*Kaggle"):
        HmcQu(root).units()
    (root / "A2C.xlsx").write_bytes(b"no workbook")
    with pytest.raises(UserError, match=r"A2C.xlsx: not an Excel workbook.*Kaggle"):
        HmcQu(root).units()
    (root / "A2C.xlsx").unlink()
    with pytest.raises(UserError, match=r"A2C.xlsx: missing.*Kaggle"):
        HmcQu(root).units()
    (root / "HMC-QU").rename(root / "Echos")
    with pytest.raises(UserError, match=r"HMC-QU/A2C: missing.*recordings are not in the download"):
        HmcQu(root).units()


@pytest.mark.parametrize(("options", "message"), [({"views": ("2CH",)}, "views: '2CH'"), ({"fps": 0}, "fps 0")])
def test_a_wrong_option_is_named(root, options, message):
    with pytest.raises(UserError, match=message):
        HmcQu(root, **options).units()


def test_the_source_travels_to_other_processes(root):
    source = HmcQu(root, views=("A2C",))
    twin = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert twin == source
    assert twin.units() == source.units()
