"""A run is opened with its weights, its way of reading images and its way of deciding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_backbone import IMAGE_SIZE
from trained_runs import AVIT, make_classifier, make_segmenter, write_results

from arl_lightning.data.tasks.fit import fit_image
from arl_lightning.downstream.load import find_checkpoints, open_run
from arl_lightning.downstream.segmentation import mask_of
from arl_lightning.errors import UserError

SQUARES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8))
BREAST = torch.full((3,), 3)


@pytest.mark.parametrize("name", ["", "checkpoints/best.ckpt"])
def test_a_folder_and_its_checkpoint_are_the_same_run(tmp_path: Path, name: str) -> None:
    network = make_classifier(tmp_path, encoder=AVIT, threshold=0.25)
    run = open_run(tmp_path / name)
    with torch.no_grad():
        expected = network.probabilities(SQUARES, BREAST).numpy()
    np.testing.assert_allclose(run.probabilities(SQUARES, BREAST), expected, atol=1e-9)
    assert (run.classes, run.positive, run.anatomy) == (("benign", "malignant"), 1, "breast")
    assert run.decision.image is not None
    assert run.decision.image.threshold == 0.25


def test_trainings_of_a_run_are_averaged_and_so_are_their_thresholds(tmp_path: Path) -> None:
    networks = [make_classifier(tmp_path / f"seed_{seed}", seed, threshold=0.2 + 0.4 * seed) for seed in (0, 1)]
    run = open_run(tmp_path)
    with torch.no_grad():
        first, second = (network.probabilities(SQUARES, BREAST).numpy() for network in networks)
    np.testing.assert_allclose(run.probabilities(SQUARES, BREAST), (first + second) / 2, atol=1e-12)
    assert not np.allclose(first, second)
    notes = "\n".join(run.notes())
    assert "mean of 2 trainings: seed_0, seed_1" in notes
    assert "malignant from 0.400 on (mean of the trainings' own)" in notes


def test_the_largest_share_of_the_labels_predicts(tmp_path: Path) -> None:
    for share, seed in (("0.1", 0), ("0.5", 0), ("0.5", 1)):
        make_classifier(tmp_path / f"share_{share}" / f"seed_{seed}", seed)
    found = [path.relative_to(tmp_path).parts[:2] for path in find_checkpoints(tmp_path)]
    assert found == [("share_0.5", "seed_0"), ("share_0.5", "seed_1")]


def test_runs_beside_each_other_are_not_one_run(tmp_path: Path) -> None:
    make_classifier(tmp_path / "busi")
    make_classifier(tmp_path / "pocus")
    with pytest.raises(UserError, match=r"it holds other runs, name one, such as .*busi"):
        open_run(tmp_path)


@pytest.mark.parametrize(("threshold", "expected"), [(0.3, "malignant"), (0.31, "benign"), (None, "benign")])
def test_the_threshold_decides_or_the_likelier_class(tmp_path: Path, threshold: float | None, expected: str) -> None:
    make_classifier(tmp_path, threshold=threshold)
    run = open_run(tmp_path)
    assert run.decide(np.array([0.7, 0.3])) == expected
    assert ("likelier class" in run.notes()[0]) == (threshold is None)


def test_clips_are_decided_at_their_own_threshold(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    write_results(tmp_path, 0.3, of_clips=0.6)
    run = open_run(tmp_path)
    assert run.decide(np.array([0.5, 0.5])) == "malignant"
    assert run.decide(np.array([0.5, 0.5]), is_clip=True) == "benign"


def test_more_than_two_classes_are_decided_by_the_likeliest(tmp_path: Path) -> None:
    make_classifier(tmp_path, classes=["a", "b", "c"], positive=None)
    write_results(tmp_path, 0.1)
    assert open_run(tmp_path).decide(np.array([0.2, 0.3, 0.5])) == "c"


def test_a_segmentation_is_rebuilt_and_its_members_averaged(tmp_path: Path) -> None:
    first, second = (make_segmenter(tmp_path / f"fold_{fold}", fold) for fold in (0, 1))
    sizes = [(40, 60), (50, 50), (33, 70)]
    with torch.no_grad():
        alone = first.predict_masks(SQUARES, BREAST, sizes)
        both = [network(SQUARES, BREAST).softmax(1) for network in (first, second)]
    run = open_run(tmp_path / "fold_0")
    assert run.segments
    for mask, expected in zip(run.masks(SQUARES, BREAST, sizes), alone, strict=True):
        np.testing.assert_array_equal(mask, expected)
    mean = (both[0] + both[1]) / 2
    for mask, logits, size in zip(open_run(tmp_path).masks(SQUARES, BREAST, sizes), mean.log(), sizes, strict=True):
        assert (mask == mask_of(logits, "squash", size)).mean() > 0.999


@pytest.mark.parametrize("shape", [(300, 200), (300, 200, 3), (40, 40)])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_images_become_squares_of_the_networks_channels(tmp_path: Path, shape: tuple[int, ...], in_chans: int) -> None:
    make_classifier(tmp_path, encoder={"kind": "pixels", "image_size": IMAGE_SIZE, "in_chans": in_chans}, fit="crop")
    square = open_run(tmp_path).square(np.full(shape, 77, np.uint8))
    assert square.shape == (in_chans, IMAGE_SIZE, IMAGE_SIZE)
    assert np.abs(square.astype(int) - 77).max() <= 1


def test_a_square_that_needs_no_scaling_is_the_image(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (40, 36), dtype=np.uint8)  # below 1.5 times the network's side
    np.testing.assert_array_equal(open_run(tmp_path).square(image)[0], fit_image(image, "squash", IMAGE_SIZE))


def test_anatomies_are_the_encoders(tmp_path: Path) -> None:
    make_classifier(tmp_path / "a", encoder=AVIT)
    run = open_run(tmp_path / "a")
    assert [run.anatomy_index(name) for name in (None, "thyroid", "none")] == [3, 15, 16]
    with pytest.raises(UserError, match="not in the vocabulary"):
        run.anatomy_index("brest")
    make_classifier(tmp_path / "b")
    with pytest.raises(UserError, match="not conditioned on anatomies; leave it out"):
        open_run(tmp_path / "b").anatomy_index("thyroid")


def test_what_is_no_run_is_refused_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    torch.save({"arl": {}, "state_dict": {}}, tmp_path / "pretrained.ckpt")
    torch.save({"model": {}}, tmp_path / "foreign.pth")
    (tmp_path / "notes.txt").write_text("no checkpoint")
    for name, reason in (
        ("missing", "no such file or folder; give a run's folder"),
        ("empty", r"has no checkpoints/best.ckpt; give the folder of a run"),
        ("pretrained.ckpt", "is of `arl pretrain`, so it predicts nothing yet; give the folder of a run on a task"),
        ("foreign.pth", "is not of `arl finetune`, probe, knn or segment"),
        ("notes.txt", "not a readable checkpoint"),
    ):
        with pytest.raises(UserError, match=reason) as caught:
            open_run(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_a_checkpoint_without_what_rebuilds_it_is_refused(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    path = tmp_path / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["arl_downstream"]["encoder"]
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="lacks 'encoder', as of another version; train it again"):
        open_run(tmp_path)


def test_trainings_of_unlike_tasks_are_not_averaged(tmp_path: Path) -> None:
    make_classifier(tmp_path / "seed_0")
    make_classifier(tmp_path / "seed_1", classes=["benign", "malignant", "normal"])
    with pytest.raises(UserError, match="of another task than"):
        open_run(tmp_path)
