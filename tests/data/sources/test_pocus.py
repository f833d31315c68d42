import csv
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.pocus import Pocus
from arl_lightning.errors import UserError

COLUMNS = ("Filename", "License", "Probe", "Framerate", "Resolution", "Length (frames)", "Gender", "Age")
COLUMNS += ("Patient ID / Name", "Lung /abdomen interface")

# The last row stands one column too far to the right, as four rows of the release do: the patient is 7, of age 40.
ROWS = (
    ("Reg_a", "CC BY 4.0", "convex", "25", "64x64", "50", "w", "22", "10", ""),
    ("Cov_b", "CC BY-NC -SA 4.0", "convex", "25", "64x64", "50", "m", "30", "11", ""),
    ("Reg_twice", "None", "convex", "25", "64x64", "50", "nd", "", "74", ""),
    ("Reg_twice", "CC BY 4.0", "linear", "25", "64x64", "50", "nd", "", "77", ""),
    ("Reg_shifted", "CC BY 4.0", "linear", "", "15", "64x64", "24", "m", "40", "7"),
)
CLIP = "data/pocus_videos/linear/Reg_shifted.mp4"
STILLS = [f"data/pocus_images/{name}" for name in ("convex/Cov_b.JPG", "convex/Reg_a.png", "linear/Reg_twice.png")]


@pytest.fixture
def root(tmp_path, speckle, write_clip) -> Path:
    for folder in ("pocus_images/convex", "pocus_images/linear", "pocus_videos/linear", "data_with_artifacts"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for seed, name in enumerate(STILLS):
        Image.fromarray(speckle(40, 50, seed=seed)).save(tmp_path / name)
    Image.fromarray(speckle(40, 50)).save(tmp_path / "data/data_with_artifacts/Pneu_arrow.png")
    write_clip(tmp_path / CLIP)
    write_table(tmp_path)
    return tmp_path


def write_table(root: Path, columns: tuple[str, ...] = COLUMNS) -> None:
    with (root / "data/dataset_metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *ROWS])


def read(source: Pocus) -> tuple[list[Sample], list[Rejected]]:
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def names(source: Pocus) -> list[str]:
    return [unit.name for unit in source.units()]


@pytest.fixture
def listed(tmp_path_factory) -> Callable[..., Path]:
    def write(*lines: str) -> Path:
        path = tmp_path_factory.mktemp("lists") / "train.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


def test_stills_and_clips_are_read_and_nothing_beside_their_folders(root):
    samples, rejected = read(Pocus(root))
    assert not rejected
    assert [sample.name for sample in samples if sample.video is None] == STILLS
    assert {sample.video for sample in samples if sample.video} == {CLIP}


def test_a_still_keeps_its_pixels_its_probe_and_its_patient(root, speckle):
    sample = read(Pocus(root))[0][1]
    np.testing.assert_array_equal(sample.image, speckle(40, 50, seed=1))
    assert (sample.anatomy, sample.source, sample.patient, sample.probe) == ("lung", "pocus", "10", "convex")
    assert (sample.video, sample.frame) == (None, None)


@pytest.mark.parametrize(("options", "frames"), [({}, [0, 9, 17, 25, 34, 42]), ({"fps": 1.0}, [0, 25])])
def test_a_clip_gives_the_first_frame_of_each_third_of_a_second_or_as_asked(root, options, frames):
    samples = [sample for sample in read(Pocus(root, **options))[0] if sample.video]
    assert [sample.frame for sample in samples] == frames
    assert [sample.name for sample in samples] == [f"{CLIP}#{frame:06d}" for frame in frames]
    assert {(sample.patient, sample.probe) for sample in samples} == {("7", "linear")}
    levels = [sample.image.mean() for sample in samples]
    np.testing.assert_allclose(levels, [4 * frame for frame in frames], atol=3)


def test_a_row_with_shifted_columns_still_gives_its_patient(root):
    details = {unit.name: unit.details for unit in Pocus(root).units()}
    assert details[CLIP] == {"patient": "7", "probe": "linear"}


def test_of_two_rows_with_a_name_the_one_of_the_probe_counts(root):
    details = {unit.name: unit.details for unit in Pocus(root).units()}
    assert details["data/pocus_images/linear/Reg_twice.png"]["patient"] == "77"


def test_a_file_without_a_row_is_read_but_never_under_a_licence(root, speckle):
    Image.fromarray(speckle(40, 50)).save(root / "data/pocus_images/linear/unknown.png")
    (unit,) = [unit for unit in Pocus(root).units() if unit.name.endswith("unknown.png")]
    assert unit.details == {"patient": None, "probe": "linear"}
    assert not any("unknown" in name for name in names(Pocus(root, licences=("CC BY 4.0", "CC BY-NC-SA 4.0"))))


def test_licences_pick_files_in_any_spelling(root):
    assert names(Pocus(root, licences=("cc-by-nc-sa 4.0",))) == [STILLS[0]]
    assert names(Pocus(root, licences=("CC BY 4.0",))) == [STILLS[1], STILLS[2], CLIP]


def test_an_unknown_licence_is_refused_with_the_known_ones(root):
    with pytest.raises(UserError, match=r"under 'CC0'; choose from CC BY 4\.0, CC BY-NC -SA 4\.0, None"):
        Pocus(root, licences=("CC0",)).units()


def test_a_licence_that_no_file_here_has_is_refused(root):
    with pytest.raises(UserError, match="holds no still or clip under None"):
        Pocus(root, licences=("None",)).units()


def test_a_list_restricts_the_files_by_name_or_path(root, listed):
    files = listed("# training part", "Reg_a.png", "", CLIP)
    assert names(Pocus(root, files=files)) == [STILLS[1], CLIP]


def test_a_list_that_names_an_absent_file_is_refused(root, listed):
    with pytest.raises(UserError, match=r"train\.txt: names Reg_b\.png and 1 more, which .* lacks"):
        Pocus(root, files=listed("Reg_a.png", "Reg_c.png", "Reg_b.png")).units()


def test_a_missing_list_is_named(root, tmp_path):
    with pytest.raises(UserError, match=r"absent\.txt: No such file or directory; name the files to read there"):
        Pocus(root, files=tmp_path / "absent.txt").units()


def test_a_damaged_file_is_rejected_and_the_others_are_read(root):
    path = root / STILLS[1]
    path.write_bytes(path.read_bytes()[:500])
    samples, rejected = read(Pocus(root))
    assert [item.path for item in rejected] == [path]
    assert [sample.name for sample in samples if sample.video is None] == [STILLS[0], STILLS[2]]


@pytest.mark.parametrize("entry", ["data/dataset_metadata.csv", "data/pocus_images", "data/pocus_videos"])
def test_a_missing_entry_is_named_with_where_to_ask(root, entry):
    (root / entry).rename(root / "elsewhere")
    with pytest.raises(UserError, match=rf"{entry}: missing; .*covid19_ultrasound"):
        Pocus(root).units()


def test_a_missing_column_is_named(root):
    write_table(root, tuple("Licence" if column == "License" else column for column in COLUMNS))
    with pytest.raises(UserError, match=r"dataset_metadata\.csv: has no column 'License'"):
        Pocus(root).units()


def test_a_rate_of_zero_is_refused(tmp_path):
    with pytest.raises(UserError, match="fps 0: must be above 0"):
        Pocus(tmp_path, fps=0)


def test_the_source_travels_to_a_worker(tmp_path):
    source = Pocus(tmp_path, licences=("CC BY 4.0",), files=tmp_path / "train.txt")
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 (bytes of our own)


def test_every_real_file_is_read(ultrasound_data):
    samples, rejected = read(Pocus(ultrasound_data / "pocus", fps=0.5))
    assert not rejected
    assert sum(sample.video is None for sample in samples) == 31
    assert len({sample.video for sample in samples if sample.video}) == 41
    assert len({sample.name for sample in samples}) == len(samples)
    assert {sample.probe for sample in samples} == {"convex", "linear"}
    assert all(sample.patient for sample in samples)


@pytest.mark.parametrize(
    ("licence", "count"), [("CC BY-NC 4.0", 38), ("CC BY-NC-SA 4.0", 16), ("CC BY 4.0", 14), ("CC BY 2.0", 4)]
)
def test_the_licences_of_the_real_files_are_those_of_their_record(ultrasound_data, licence, count):
    assert len(Pocus(ultrasound_data / "pocus", licences=(licence,)).units()) == count


def test_the_real_clips_of_one_case_share_their_patient(ultrasound_data):
    units = Pocus(ultrasound_data / "pocus").units()
    patients = {Path(unit.name).stem: unit.details["patient"] for unit in units if "case3" in unit.name}
    clips = ("Pneu_liftl_pneu_case3_clip3", "Pneu_liftl_pneu_case3_clip4", "Pneu_liftl_pneu_case3_clip5")
    assert patients == dict.fromkeys((*clips, "Reg_liftl_case3_clip2", "Reg_liftl_pneucase3_clip1"), "7")
