import pickle
from pathlib import Path

import numpy as np
import pytest

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.echonet_lvh import EchoNetLvh
from arl_lightning.errors import UserError

HEADER = ",HashedFileName,Calc,CalcValue,Frame,X1,X2,Y1,Y2,Frames,FPS,Width,Height,split\n"
SPLITS = {"0XA": "train", "0XB": "train", "0XC": "val", "0XD": "test"}


@pytest.fixture
def root(tmp_path, write_clip) -> Path:
    """Four listed videos of 50 frames at 25 frames/s, one in each folder, and one that is not listed."""
    for number, stem in enumerate([*SPLITS, "0XNOTLISTED"]):
        folder = tmp_path / f"Batch{number % 4 + 1}"
        folder.mkdir(exist_ok=True)
        write_clip(folder / f"{stem}.avi")
    rows = [
        f"{4 * row + place},{stem},{calc},1.1,3,10.0,20.0,30.0,40.0,50,25,64,64,{split}\n"
        for row, (stem, split) in enumerate(SPLITS.items())
        for place, calc in enumerate(("IVSd", "LVIDd", "LVIDs", "LVPWd"))
    ]
    (tmp_path / "MeasurementsList.csv").write_text(HEADER + "".join(rows))
    return tmp_path


def read_all(source: EchoNetLvh) -> tuple[list[Sample], list[Rejected]]:
    results = [result for unit in source.units() for result in source.read(unit)]
    rejected = [result for result in results if isinstance(result, Rejected)]
    return [result for result in results if isinstance(result, Sample)], rejected


def test_listed_videos_of_all_folders_are_read_once_at_the_rate(root):
    samples, rejected = read_all(EchoNetLvh(root))
    assert not rejected
    assert len(samples) == 4 * 10  # 2 s at 5 frames/s, however many rows a video has
    assert [sample.frame for sample in samples[:10]] == list(range(0, 50, 5))
    assert {sample.video for sample in samples} == {
        "Batch1/0XA.avi",
        "Batch2/0XB.avi",
        "Batch3/0XC.avi",
        "Batch4/0XD.avi",
    }
    assert samples[1].name == "Batch1/0XA.avi#000005"
    assert (samples[1].patient, samples[1].spacing_mm, samples[1].probe) == (None, None, "sector")
    assert (samples[1].anatomy, samples[1].source) == ("cardiac", "echonet_lvh")
    assert np.abs(samples[1].image.astype(int) - 4 * 5).max() <= 3  # frame 5 is of level 20


def test_splits_are_the_tables(root):
    samples, _ = read_all(EchoNetLvh(root, splits=("val", "test"), fps=1))
    assert [sample.video for sample in samples] == ["Batch3/0XC.avi"] * 2 + ["Batch4/0XD.avi"] * 2


def test_a_missing_and_a_cut_video_are_rejected_once_each_and_the_rest_is_read(root, write_clip):
    (root / "Batch1/0XA.avi").unlink()
    cut = write_clip(root / "Batch2/0XB.avi", noise=True)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    samples, rejected = read_all(EchoNetLvh(root))
    assert {one.path for one in rejected} == {root / "0XA.avi", cut}
    assert len(rejected) == 2
    assert sum(sample.video != "Batch2/0XB.avi" for sample in samples) == 2 * 10


def test_errors_name_what_is_missing_and_where_to_ask(root):
    (root / "Batch3/0XC.avi").rename(root / "0XC.avi")
    (root / "Batch3").rmdir()
    with pytest.raises(UserError, match=r"Batch3: missing.*Stanford AIMI"):
        EchoNetLvh(root).units()
    (root / "Batch3").mkdir()
    (root / "MeasurementsList.csv").write_text(HEADER.replace("split", "fold"))
    with pytest.raises(UserError, match=r"MeasurementsList.csv: has no column 'split'"):
        EchoNetLvh(root).units()
    (root / "MeasurementsList.csv").unlink()
    with pytest.raises(UserError, match=r"MeasurementsList.csv: missing.*Stanford AIMI"):
        EchoNetLvh(root).units()


@pytest.mark.parametrize(("options", "message"), [({"splits": ("all",)}, "splits: 'all'"), ({"fps": 0}, "fps 0")])
def test_a_wrong_option_is_named(root, options, message):
    with pytest.raises(UserError, match=message):
        EchoNetLvh(root, **options).units()


def test_the_source_travels_to_other_processes(root):
    source = EchoNetLvh(root, splits=("train",))
    twin = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert twin == source
    assert twin.units() == source.units()
