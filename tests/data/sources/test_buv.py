import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.buv import Buv
from arl_lightning.errors import UserError

VIDEOS = {"benign/x28f299ceb056964c": 7, "malignant/x1a2b3c4d5e6f7081": 4}


@pytest.fixture
def buv(tmp_path, speckle) -> Path:
    for number, (video, num_frames) in enumerate(VIDEOS.items()):
        folder = tmp_path / "rawframes" / video
        folder.mkdir(parents=True)
        for frame in range(num_frames):
            Image.fromarray(speckle(40, 50, seed=100 * number + frame)).save(folder / f"{frame:06d}.png")
    for name in ("imagenet_vid_train_15frames.json", "imagenet_vid_val.json"):
        (tmp_path / name).write_text(json.dumps({"images": [], "annotations": [], "videos": [], "categories": []}))
    return tmp_path


def read(source: Buv) -> tuple[list[Sample], list[Rejected]]:
    items = [item for unit in source.units() for item in source.read(unit)]
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def test_every_nth_frame_of_each_video_is_read(buv, speckle):
    samples, rejected = read(Buv(buv, every=3))
    assert not rejected
    assert [(sample.video, sample.frame) for sample in samples] == [
        ("rawframes/benign/x28f299ceb056964c", 0),
        ("rawframes/benign/x28f299ceb056964c", 3),
        ("rawframes/benign/x28f299ceb056964c", 6),
        ("rawframes/malignant/x1a2b3c4d5e6f7081", 0),
        ("rawframes/malignant/x1a2b3c4d5e6f7081", 3),
    ]
    assert samples[1].name == "rawframes/benign/x28f299ceb056964c/000003.png"
    np.testing.assert_array_equal(samples[1].image, speckle(40, 50, seed=3))
    np.testing.assert_array_equal(samples[4].image, speckle(40, 50, seed=103))
    assert {(sample.source, sample.anatomy, sample.patient) for sample in samples} == {("buv", "breast", None)}


def test_a_video_is_one_unit_and_step_one_takes_all_of_it(buv):
    assert [unit.name for unit in Buv(buv).units()] == [f"rawframes/{video}" for video in VIDEOS]
    assert len(read(Buv(buv, every=1))[0]) == sum(VIDEOS.values())


def test_videos_that_the_errata_tie_together_share_a_patient(buv):
    tied = ["benign/x63c9ba1377f35bf6", "benign/x5a1c46ec6377e946", "malignant/2390fbea047347b"]
    copies = ["benign/x1282311c38f808f", "malignant/x9c1c965d274c457"]
    for video in tied + copies:
        (buv / "rawframes" / video).mkdir()
    patients = {unit.name.removeprefix("rawframes/"): unit.details for unit in Buv(buv).units()}
    assert len({patients[video] for video in tied}) == 1
    assert len({patients[video] for video in copies}) == 1
    assert None not in (patients[tied[0]], patients[copies[0]])
    assert patients[tied[0]] != patients[copies[0]]
    assert patients["benign/x28f299ceb056964c"] is None


def test_a_damaged_frame_costs_that_frame_alone(buv):
    path = buv / "rawframes/malignant/x1a2b3c4d5e6f7081/000001.png"
    path.write_bytes(path.read_bytes()[:300])
    samples, (rejected,) = read(Buv(buv, every=1))
    assert len(samples) == 10
    assert rejected.path == path


def test_a_video_without_frames_is_rejected(buv):
    (buv / "rawframes/benign/x0000000000000000").mkdir()
    samples, (rejected,) = read(Buv(buv, every=1))
    assert len(samples) == 11
    assert rejected.path.name == "x0000000000000000"
    assert "holds no frame" in rejected.reason


def test_what_is_missing_is_named_with_where_to_ask(buv):
    (buv / "rawframes/malignant").rename(buv / "elsewhere")
    with pytest.raises(UserError, match=r"malignant: missing.*CVA-Net"):
        Buv(buv).units()


def test_a_step_below_one_is_refused(buv):
    with pytest.raises(UserError, match="every 0: must be 1"):
        Buv(buv, every=0)


def test_it_travels_to_another_process(buv):
    source = Buv(buv, every=2)
    assert pickle.loads(pickle.dumps(source)).units() == source.units()  # noqa: S301 (its own bytes)
