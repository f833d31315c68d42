import pickle
from pathlib import Path

import numpy as np
import pytest

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.echonet_dynamic import EchoNetDynamic
from arl_lightning.errors import UserError

HEADER = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"
# The released table has no suffixes, copies of it do.
SPLITS = {"0XA": "TRAIN", "0XB.avi": "TRAIN", "0XC": "VAL", "0XD": "TEST"}


@pytest.fixture
def root(tmp_path, write_clip) -> Path:
    """Four listed videos of 50 frames at 25 frames/s, and one that is not listed."""
    (tmp_path / "Videos").mkdir()
    for stem in ("0XA", "0XB", "0XC", "0XD", "0XNOTLISTED"):
        write_clip(tmp_path / f"Videos/{stem}.avi")
    rows = [f"{name},60.1,20.2,50.3,112,112,25,50,{split}\n" for name, split in SPLITS.items()]
    (tmp_path / "FileList.csv").write_text(HEADER + "".join(rows))
    (tmp_path / "VolumeTracings.csv").write_text("FileName,X1,Y1,X2,Y2,Frame\n0XA.avi,1,2,3,4,5\n")
    return tmp_path


def read_all(source: EchoNetDynamic) -> tuple[list[Sample], list[Rejected]]:
    results = [result for unit in source.units() for result in source.read(unit)]
    rejected = [result for result in results if isinstance(result, Rejected)]
    return [result for result in results if isinstance(result, Sample)], rejected


def test_only_the_training_split_is_read_unless_told_otherwise(root):
    samples, rejected = read_all(EchoNetDynamic(root))
    assert not rejected
    assert [sample.patient for sample in samples] == ["0XA"] * 10 + ["0XB"] * 10  # 2 s at 5 frames/s each
    everything, _ = read_all(EchoNetDynamic(root, splits=("train", "val", "test")))
    assert {sample.patient for sample in everything} == {"0XA", "0XB", "0XC", "0XD"}


def test_a_frame_carries_its_video_and_number(root):
    samples, _ = read_all(EchoNetDynamic(root))
    second = samples[1]
    assert (second.name, second.video, second.frame) == ("Videos/0XA.avi#000005", "Videos/0XA.avi", 5)
    assert (second.anatomy, second.source, second.probe) == ("cardiac", "echonet_dynamic", "sector")
    assert second.spacing_mm is None
    assert np.abs(second.image.astype(int) - 4 * 5).max() <= 3  # frame 5 is of level 20


def test_a_missing_and_a_cut_video_are_rejected_once_each_and_the_rest_is_read(root, write_clip):
    (root / "Videos/0XA.avi").unlink()
    cut = write_clip(root / "Videos/0XB.avi", noise=True)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    samples, rejected = read_all(EchoNetDynamic(root, splits=("train", "val")))
    assert [one.path for one in rejected] == [root / "Videos/0XA.avi", cut]
    assert rejected[0].reason == "No such file or directory"
    assert sum(sample.patient == "0XC" for sample in samples) == 10


def test_errors_name_what_is_missing_and_where_to_ask(root):
    (root / "FileList.csv").write_text(HEADER.replace("Split", "Fold"))
    with pytest.raises(UserError, match=r"FileList.csv: has no column 'Split'"):
        EchoNetDynamic(root).units()
    (root / "FileList.csv").unlink()
    with pytest.raises(UserError, match=r"FileList.csv: missing.*Stanford AIMI"):
        EchoNetDynamic(root).units()
    with pytest.raises(UserError, match=r"no such folder.*Stanford AIMI"):
        EchoNetDynamic(root / "EchoNet-Dynamic").units()


@pytest.mark.parametrize(("options", "message"), [({"splits": ()}, "splits: the list is empty"), ({"fps": -1}, "fps")])
def test_a_wrong_option_is_named(root, options, message):
    with pytest.raises(UserError, match=message):
        EchoNetDynamic(root, **options).units()


def test_the_source_travels_to_other_processes(root):
    source = EchoNetDynamic(root, splits=("val",))
    twin = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert twin == source
    assert twin.units() == source.units()
