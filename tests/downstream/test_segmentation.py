import os
import socket
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.multiprocessing
from lightning.pytorch.strategies import DDPStrategy
from tiny_backbone import IMAGE_SIZE, tiny_avit
from torch.utils.data import DataLoader

from arl_lightning.data.tasks.datamodule import TaskBatch
from arl_lightning.downstream.options import Optimization
from arl_lightning.downstream.segmentation import Decoder, Segmenter, mask_of, segmentation_losses, unique_rows
from arl_lightning.errors import UserError
from arl_lightning.evaluation.overlap import Overlap, score_masks
from arl_lightning.objectives.dice import dice_loss, pixel_cross_entropy

STRUCTURES = ("lesion", "shadow")
NUM_CASES = 6
SHORT = Optimization(base_lr=1e-2, scale_lr=False, layer_decay=1.0, epochs=1, warmup_epochs=0.0)


def case(place: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright disk above a dark bar, uint8 (32, 32), and its mask."""
    draw = np.random.default_rng(place)
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    row, column = draw.uniform(8, 14), draw.uniform(10, 22)
    disk = (y - row) ** 2 + (x - column) ** 2 < draw.uniform(4, 6) ** 2
    bar = (y > 24) & (abs(x - column) < 6)
    image = draw.integers(80, 120, disk.shape)
    return np.where(disk, 220, np.where(bar, 10, image)).astype(np.uint8), (disk + 2 * bar).astype(np.uint8)


def native_mask(place: int) -> np.ndarray:
    """The mask in a file twice as high and three times as wide."""
    return case(place)[1].repeat(2, axis=0).repeat(3, axis=1)


def collate(places: list[int]) -> TaskBatch:
    images, masks = zip(*map(case, places), strict=True)
    return {
        "image": torch.from_numpy(np.stack(images))[:, None],
        "mask": torch.from_numpy(np.stack(masks)).long(),
        "anatomy": torch.full((len(places),), 2),
        "label": torch.full((len(places),), -1),
        "index": torch.tensor(places),
    }


def loader(places: Any = range(NUM_CASES), batch_size: int = 3) -> DataLoader:
    return DataLoader(list(places), batch_size, collate_fn=collate)


def segmenter(seed: int = 0, optimization: Optimization = SHORT, **decoder: Any) -> Segmenter:
    torch.manual_seed(seed)
    options = Decoder(**{"channels": 16, "dropout": 0.0, **decoder})
    return Segmenter(tiny_avit(), STRUCTURES, native_mask, "squash", options, optimization, batch_size=3)


def trainer(num_steps: int = 1, **changes: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Trainer(accelerator="cpu", max_steps=num_steps, num_sanity_val_steps=0, **{**quiet, **changes})


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_learns_to_segment(precision):
    rates = Optimization(base_lr=2e-3, scale_lr=False, layer_decay=1.0, epochs=60, warmup_epochs=2.0)
    module = segmenter(optimization=rates, channels=32)
    before = trainer().validate(module, loader(), verbose=False)[0]["val/dice"]
    trainer(60, max_epochs=60, precision=precision, deterministic=True).fit(module, loader(batch_size=NUM_CASES))
    results = trainer().test(module, loader(), verbose=False)[0]
    assert before < 0.4
    assert results["test/dice"] > 0.7
    assert results["test/dice"] == pytest.approx((results["test/dice/lesion"] + results["test/dice/shadow"]) / 2)


def test_losses_are_logged_and_add_up_unweighted():
    module, seen = segmenter(auxiliary_weight=0.4), {}

    class Recorder(pl.Callback):
        def on_train_batch_end(
            self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            seen.update(trainer.callback_metrics, total=outputs["loss"])

    trainer(callbacks=[Recorder()]).fit(module, loader())
    names = {f"train/loss/{name}" for name in ("cross_entropy", "dice", "auxiliary")}
    assert names <= set(seen)
    parts = seen["train/loss/cross_entropy"] + seen["train/loss/dice"] + 0.4 * seen["train/loss/auxiliary"]
    torch.testing.assert_close(seen["total"], parts)


def test_the_losses_are_those_of_appendix_b():
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    losses = segmentation_losses(logits, mask)
    assert losses == {"cross_entropy": pixel_cross_entropy(logits, mask), "dice": dice_loss(logits, mask)}


def test_predictions_are_scored_at_the_size_of_the_files():
    module = segmenter().eval()
    results = trainer().validate(module, loader(), verbose=False)[0]
    batch = collate(list(range(NUM_CASES)))
    losses = segmentation_losses(module(batch["image"], batch["anatomy"]), batch["mask"])
    assert results["val/loss"] == pytest.approx(sum(losses.values()).item(), rel=1e-5)
    masks = module.predict_masks(batch["image"], batch["anatomy"], [(64, 96)] * NUM_CASES)
    assert {mask.shape for mask in masks} == {(64, 96)}
    expected = [
        row for place in range(NUM_CASES) for row in score_masks(masks[place], native_mask(place), STRUCTURES, place)
    ]
    assert [(row.index, row.structure, row.dice, row.iou) for row in module.scores["val"]] == [
        (row.index, row.structure, row.dice, row.iou) for row in expected
    ]


def test_a_step_moves_every_weight_and_the_encoder_too():
    module = segmenter(optimization=Optimization(base_lr=1e-2, scale_lr=False, epochs=1, warmup_epochs=0.0))
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    trainer().fit(module, loader())
    still = [name for name, parameter in module.named_parameters() if torch.equal(parameter, before[name])]
    # A step of AdamW is the rate times the sign of the gradient: only what has none at all stays. At the start the
    # offsets' last layer is zero, so that nothing before it has a gradient, but weight decay moves matrices.
    assert [name for name in still if ".sampling." not in name] == []


def test_logits_and_not_masks_are_enlarged():
    logits = torch.zeros(2, 2, 2)
    logits[1, :, 0], logits[1, :, 1] = 3.0, -1.0
    # Zero lies three quarters of the way from the first centre to the second: (0.5 + 0.75) * 8 = 10 of 16 columns.
    assert mask_of(logits, "squash", (2, 16)).tolist() == [[1] * 10 + [0] * 6] * 2


@pytest.mark.parametrize(("fit", "columns"), [("squash", range(0, 12)), ("crop", range(4, 8)), ("pad", range(0, 12))])
def test_a_mask_returns_to_where_its_square_lay(fit, columns):
    logits = torch.zeros(2, 12, 12)
    logits[1] = 1.0  # structure 1 everywhere
    mask = mask_of(logits, fit, (4, 12))
    assert mask.shape == (4, 12)
    assert [column for column in range(12) if mask[:, column].all()] == list(columns)
    assert set(np.unique(mask)) <= {0, 1}


def test_rows_of_several_ranks_count_once_and_in_order():
    def row(index: int, structure: str, dice: float = 0.5) -> Overlap:
        return Overlap(index, structure, dice, 0.3, 1.0)

    parts = [[row(4, "b"), row(4, "a"), row(0, "b"), row(0, "a")], [row(1, "b"), row(1, "a"), row(4, "b"), row(4, "a")]]
    assert [(each.index, each.structure) for each in unique_rows(parts)] == [
        (0, "b"), (0, "a"), (1, "b"), (1, "a"), (4, "b"), (4, "a"),
    ]  # fmt: skip


def test_a_run_that_validates_again_forgets_the_scores_before():
    module = segmenter()
    for _ in range(2):
        trainer().validate(module, loader(), verbose=False)
        assert len(module.scores["val"]) == NUM_CASES * len(STRUCTURES)
    assert module.scores["test"] == []


@pytest.mark.parametrize(("device", "world_size", "shared"), [("cuda", 2, 13), ("cuda", 1, 0), ("cpu", 2, 0)])
def test_batch_norm_is_shared_by_ranks_on_gpus(device, world_size, shared):
    module = segmenter(norm="batch")
    weights = set(module.parameters())
    strategy = SimpleNamespace(root_device=torch.device(device))
    module._trainer = SimpleNamespace(world_size=world_size, strategy=strategy)
    for _ in range(2):  # once for fit, once for test
        module.configure_model()
    assert sum(isinstance(each, torch.nn.SyncBatchNorm) for each in module.modules()) == shared
    assert set(module.parameters()) == weights


@pytest.mark.parametrize(
    ("options", "said"), [({"channels": 0}, "channels 0"), ({"auxiliary_weight": -1}, "weight -1")]
)
def test_decoders_that_cannot_be_are_refused(options, said):
    with pytest.raises(UserError, match=rf"^decoder\..*{said}: must be"):
        Decoder(**options)


def test_what_rebuilds_the_network_goes_into_the_checkpoint():
    module, checkpoint = segmenter(), {}
    module.description = {"structures": list(STRUCTURES)}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint == {"arl_downstream": {"structures": ["lesion", "shadow"]}}


def test_scoring_without_masks_is_refused():
    module = segmenter()
    module.native_mask = None
    with pytest.raises(ValueError, match="native_mask"):
        module.score(torch.zeros(1, 3, 32, 32), collate([0]))


def run_rank(rank: int, port: int, folder: str) -> None:
    """Train one step and validate on a rank's every second case."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    module = segmenter()
    ranks = trainer(strategy=DDPStrategy(process_group_backend="gloo"), devices=2, use_distributed_sampler=False)
    # Rank 1 sees case 4 a second time, as where a part is filled up.
    ranks.fit(module, loader([rank, rank + 2, rank + 4]), loader([0, 2, 4] if rank == 0 else [1, 3, 4]))
    torch.save(
        {"weights": module.state_dict(), "scores": module.scores["val"], "metrics": dict(ranks.callback_metrics)},
        Path(folder) / f"{rank}.pt",
    )
    torch.distributed.destroy_process_group()


def test_two_ranks_train_as_one_and_both_have_all_scores(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_rank, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert [row.index for row in first["scores"]] == sorted([0, 1, 2, 3, 4] * 2)
    assert str(first["scores"]) == str(second["scores"])  # nan is nan
    assert first["metrics"]["val/dice"] == second["metrics"]["val/dice"]
    alone = segmenter()
    trainer().fit(alone, loader([0, 2, 4, 1, 3, 5], batch_size=6))
    for name, weight in alone.state_dict().items():
        torch.testing.assert_close(first["weights"][name], weight, rtol=1e-3, atol=1e-4, msg=name)
        assert torch.equal(first["weights"][name], second["weights"][name])
