from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.tasks.case import Case
from arl_lightning.data.tasks.echonet import EchoNet
from arl_lightning.data.tasks.frames import read_frames
from arl_lightning.data.tasks.gbcu import Gbcu
from arl_lightning.data.tasks.masks import read_mask
from arl_lightning.data.tasks.phantom_pictures import draw_still
from arl_lightning.data.tasks.phantoms import GALLBLADDER, WRITERS, write_phantom_set
from arl_lightning.data.tasks.registry import TASKS, task_class
from arl_lightning.data.tasks.splits import SplitOptions, split_cases
from arl_lightning.errors import UserError

OPTIONS = {
    "busi": {"partial": True, "classes": "three"},
    "gbcu": {"partial": True},
    "custom": {"structures": ("lesion",)},
}
CLASSES = {"busi": 3, "gbcu": 3, "pocus": 4, "echonet": 1, "thyroid": 2, "echo_views": 5, "custom": 2}


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for name in WRITERS:
        write_phantom_set(name, folder / name, num_patients=24)
    return folder


def pixels(case: Case) -> np.ndarray:
    if case.frame is None:
        image = np.asarray(Image.open(case.path))
    else:
        ((_, image),) = read_frames(case.path, [case.frame])
    assert image.ndim == 2
    return image


def test_every_task_has_phantoms() -> None:
    assert WRITERS.keys() == TASKS.keys()


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_task_accepts_its_phantoms_and_can_split_them(sets: Path, name: str) -> None:
    listing = task_class(name)(root=sets / name, **OPTIONS.get(name, {})).listing()
    assert [finding for finding in listing.findings if finding.stops] == []
    assert len({case.label for case in listing.cases}) == CLASSES[name]
    assert 48 <= len(listing.cases) <= 84
    split = split_cases(listing.cases, SplitOptions(test=0.25, val=0.25))
    for part in (split.train, split.val, split.test):
        assert len({listing.cases[place].label for place in part}) == CLASSES[name]
    assert all(pixels(case).shape >= (112, 112) for case in listing.cases[::10])


def test_the_boxes_of_the_gallbladder_hold_the_lesions(sets: Path) -> None:
    task = Gbcu(sets / "gbcu", partial=True, crop="box", margin=0.0)
    cases = task.listing().cases
    assert [case for case in cases if case.box is None] == []
    shares = []
    for seed, label in ((seed, label) for seed in range(40) for label in ("benign", "malignant")):
        _, mask = draw_still("gallbladder", label, np.random.default_rng(seed))
        height, width = mask.shape
        rows, columns = np.nonzero(mask)
        shares.append((columns.min() / width, rows.min() / height, columns.max() / width, rows.max() / height))
    low, high = np.min(shares, axis=0), np.max(shares, axis=0)
    assert (low[:2] >= GALLBLADDER[:2]).all()
    assert (high[2:] <= GALLBLADDER[2:]).all()
    x0, y0, x1, y1 = cases[0].box or (0, 0, 0, 0)
    height, width = pixels(cases[0]).shape
    np.testing.assert_allclose((x0 / width, y0 / height, x1 / width, y1 / height), GALLBLADDER, atol=0.01)


def test_a_gbcu_set_without_boxes_is_refused_with_the_fix(tmp_path: Path) -> None:
    folder = write_phantom_set("gbcu", tmp_path / "set", num_patients=12)
    note = folder / "phantoms.json"
    note.write_text(note.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(UserError, match=r"set: holds phantoms of .*'format': 1.*'format': 2.* remove the folder"):
        write_phantom_set("gbcu", folder, num_patients=12)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "corpus").touch()
    with pytest.raises(UserError, match=r"corpus/tasks: phantoms go there, but .*; move what is in its way"):
        write_phantom_set("busi", tmp_path / "corpus/tasks/busi")


@pytest.mark.parametrize("name", ["busi", "custom", "echonet"])
def test_masks_fit_their_images_and_are_darker_than_what_lies_around(sets: Path, name: str) -> None:
    listing = task_class(name)(root=sets / name, **OPTIONS.get(name, {})).listing()
    cases = [case for case in listing.cases if case.label != "normal"]
    darker = []
    for case in cases:
        image = pixels(case)
        mask, findings = read_mask(case, 1, image.shape)
        assert findings == []
        around = cv2.dilate(mask, np.ones((15, 15), np.uint8)) - mask
        darker.append(image[mask == 1].mean() < image[around == 1].mean())
    assert np.mean(darker) > 0.9


def test_the_ventricle_contracts_from_the_first_traced_frame_to_the_second(sets: Path) -> None:
    assert {case.frame for case in EchoNet(sets / "echonet", phase="ed").listing().cases} == {0}
    cases = EchoNet(sets / "echonet").listing().cases
    masks = {case.key: read_mask(case, 1, (112, 112))[0].sum() for case in cases}
    for diastole, systole in pairwise(masks.values()):
        if diastole > systole:
            assert systole / diastole == pytest.approx(0.7**2, rel=0.1)  # both axes lose 30 %
    assert Counter(case.split for case in cases) == {"train": 30, "val": 10, "test": 8}


@pytest.mark.parametrize(("name", "chance"), [("busi", 1 / 3), ("pocus", 1 / 4), ("echo_views", 1 / 5)])
def test_classes_can_be_learnt_from_other_patients(sets: Path, name: str, chance: float) -> None:
    listing = task_class(name)(root=sets / name, **OPTIONS.get(name, {})).listing()
    thumbnails = np.stack([thumbnail(pixels(case)) for case in listing.cases])  # (N, 256)
    labels, groups = (np.array([getattr(case, name) for case in listing.cases]) for name in ("label", "group"))
    distances = ((thumbnails[:, None] - thumbnails[None]) ** 2).sum(-1)
    distances[groups[:, None] == groups[None]] = np.inf
    votes = [Counter(labels[near]).most_common(1)[0][0] for near in np.argsort(distances, axis=1)[:, :5]]
    assert np.mean(np.array(votes) == labels) > chance + 0.2


def thumbnail(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    return (small - small.mean()) / small.std()


def test_a_set_is_written_once_and_the_same_again_elsewhere(tmp_path: Path) -> None:
    folder = write_phantom_set("thyroid", tmp_path / "deep/a", num_patients=12, seed=3)
    first = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_phantom_set("thyroid", folder, num_patients=12, seed=3) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    other = write_phantom_set("thyroid", tmp_path / "b", num_patients=12, seed=3)
    assert {path.relative_to(other): path.read_bytes() for path in other.rglob("*.png")} == first
    assert len(first) == 24
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["a"]


def test_a_folder_of_anything_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.png").touch()
    with pytest.raises(UserError, match=r"holds no phantoms, .* are asked for; remove the folder"):
        write_phantom_set("busi", tmp_path)
    folder = write_phantom_set("thyroid", tmp_path / "set", num_patients=12)
    with pytest.raises(UserError, match=r"holds phantoms of .*'seed': 0.*'seed': 1.* are asked for"):
        write_phantom_set("thyroid", folder, num_patients=12, seed=1)
    assert (tmp_path / "mine.png").exists()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task 'brain': has no phantoms; choose from busi"):
        write_phantom_set("brain", tmp_path / "set")
    with pytest.raises(UserError, match=r"num_patients 3, seed 0: give 12 to 100 patients"):
        write_phantom_set("busi", tmp_path / "set", num_patients=3)
    assert not (tmp_path / "set").exists()
