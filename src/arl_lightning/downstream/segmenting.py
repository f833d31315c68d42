"""The segmentation protocol: UPerNet and the encoder trained together, scored on the test masks (appendix B)."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch

from arl_lightning.distributed.collectives import is_first_rank
from arl_lightning.downstream.inference import device_of
from arl_lightning.downstream.material import Material
from arl_lightning.downstream.overlays import Panel, choose_examples, write_sheet
from arl_lightning.downstream.run_info import run_info
from arl_lightning.downstream.segmentation import Segmenter
from arl_lightning.downstream.training import train
from arl_lightning.downstream.trials import Trial
from arl_lightning.evaluation.overlap import Overlap
from arl_lightning.evaluation.overlap_table import OverlapTable
from arl_lightning.evaluation.segmentation_results import segmentation_results, write_segmentation_run

NUM_EXAMPLES = 4  # of the worst, of the middle and of the best
MONITORS = {"auroc": ("val/dice", "max"), "loss": ("val/loss", "min"), "last": None}


def segment(material: Material, trial: Trial, folder: Path, num_resamples: int) -> None:
    """Train on a trial's masks, choose by the validation masks' Dice, and write the run's folder."""
    recipe = material.recipe
    pl.seed_everything(trial.seed, workers=True, verbose=False)
    module = _segmenter(material)
    data = material.datamodule(trial.split, trial.seed, with_masks=True)
    name = f"segment {recipe.task} {trial.name}".strip()
    trained = train(
        module, data, folder, recipe.optimization, recipe.devices, MONITORS[recipe.optimization.monitor], name
    )
    trained.trainer.test(module, dataloaders=data.test_dataloader(), verbose=False)
    if not is_first_rank():
        return
    rows = module.scores["test"]
    table = overlap_table(material, rows)
    extra = {
        "chosen_epoch": trained.epoch,
        "num_epochs": trained.num_epochs,
        "data_wait_share": trained.data_wait_share,
        "world_size": trained.trainer.world_size,
        "decoder": asdict(recipe.decoder),
    }
    write_overlays(module, material, rows, folder / "figures" / "overlays.png")
    info = run_info(material, trial, "segment", trained.seconds, extra)
    write_segmentation_run(folder, info, segmentation_results(table, num_resamples), table)


def _segmenter(material: Material) -> Segmenter:
    recipe = material.recipe
    backbone = material.backbone()
    module = Segmenter(
        backbone,
        material.listing.structures,
        material.images.native_mask,
        recipe.loading.fit,
        recipe.decoder,
        recipe.optimization,
        recipe.loading.batch_size,
    )
    module.description = {**material.description(backbone), "protocol": "segment", "decoder": _plain(recipe.decoder)}
    return module


def _plain(decoder: object) -> dict[str, object]:
    fields = asdict(decoder)  # type: ignore[call-overload]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def overlap_table(material: Material, rows: Sequence[Overlap]) -> OverlapTable:
    """Name the cases that were scored."""
    cases = [material.listing.cases[row.index] for row in rows]
    return OverlapTable(
        keys=[case.key for case in cases],
        patients=[case.patient for case in cases],
        structures=[row.structure for row in rows],
        dice=np.array([row.dice for row in rows]),
        iou=np.array([row.iou for row in rows]),
        hd95=np.array([row.hd95 for row in rows]),
        videos=[case.video for case in cases],
    )


def write_overlays(module: Segmenter, material: Material, rows: Sequence[Overlap], path: Path) -> None:
    """Draw the worst, middle and best images of the test part, by their mean Dice."""
    dice: dict[int, dict[str, float]] = {}
    for row in rows:
        dice.setdefault(row.index, {})[row.structure] = row.dice
    places = list(dice)
    chosen = choose_examples([float(np.mean(list(dice[place].values()))) for place in places], NUM_EXAMPLES)
    device = device_of(material.recipe.devices)
    module.to(device).eval()
    panels = {
        kind: [_panel(module, material, places[at], dice[places[at]], device) for at in positions]
        for kind, positions in chosen.items()
    }
    write_sheet(panels, path, f"{material.recipe.task}, {len(places)} test images")


def _panel(module: Segmenter, material: Material, place: int, dice: dict[str, float], device: torch.device) -> Panel:
    split = (place,)
    loader = material.loader(split)
    batch = next(iter(loader))
    prediction = module.predict_masks(
        batch["image"].to(device), batch["anatomy"].to(device), [material.images.native_size(place)]
    )[0]
    return Panel(
        material.listing.cases[place].key,
        material.images.image(place),
        material.images.native_mask(place),
        prediction,
        dice,
    )
