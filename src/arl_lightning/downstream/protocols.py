"""Fine-tuning, and what the classification protocols share (appendix B).

Each trains on a trial's training cases, chooses on its validation cases, and says what it makes of these and of the
test cases.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from arl_lightning.downstream.classification import Classifier, balanced_weights
from arl_lightning.downstream.heads import LinearHead
from arl_lightning.downstream.inference import Scored, run_over
from arl_lightning.downstream.material import Material
from arl_lightning.downstream.options import Optimization
from arl_lightning.downstream.training import train
from arl_lightning.downstream.trials import Trial


@dataclass(frozen=True)
class Outcome:
    """What a trial left.

    Attributes:
        validation, test: What the classifier says of these cases.
        seconds: Training took.
        extra: What else is worth keeping in `results.json`.
    """

    validation: Scored
    test: Scored
    seconds: float
    extra: dict[str, Any] = field(default_factory=dict)


def finetune(material: Material, trial: Trial, folder: Path) -> Outcome:
    """Train encoder and linear head together, and keep the epoch that did best on validation."""
    recipe = material.recipe
    pl.seed_everything(trial.seed, workers=True, verbose=False)
    module = classifier(material, trial, frozen=False)
    return trained_by_lightning(module, material, trial, folder, f"finetune {recipe.task} {trial.name}".strip())


def optimization_of(material: Material, trial: Trial) -> Optimization:
    """Return the recipe's optimization; the loss chooses where the validation part, of one class, has no AUROC."""
    optimization = material.recipe.optimization
    if optimization.monitor == "auroc" and len(set(material.labels(trial.split.val).tolist())) < 2:
        return replace(optimization, monitor="loss")
    return optimization


def classifier(material: Material, trial: Trial, frozen: bool) -> Classifier:
    """Build the encoder and a linear head, with the description that a checkpoint holds."""
    recipe, num_classes = material.recipe, len(material.listing.classes)
    backbone = material.backbone()
    labels = material.labels(trial.split.train)
    weights = balanced_weights(labels, num_classes) if recipe.optimization.class_weights == "balanced" else None
    module = Classifier(
        backbone,
        LinearHead(backbone.embed_dim, num_classes),
        recipe.encoder.pooling,
        recipe.optimization,
        recipe.loading.batch_size,
        weights,
        material.positive,
        frozen,
    )
    module.description = material.description(backbone)
    return module


def trained_by_lightning(module: Classifier, material: Material, trial: Trial, folder: Path, name: str) -> Outcome:
    """Train with Lightning, then score both parts once with the chosen epoch."""
    recipe = material.recipe
    data = material.datamodule(trial.split, trial.seed)
    optimization = optimization_of(material, trial)
    monitors = {"auroc": ("val/auroc", "max"), "loss": ("val/loss", "min"), "last": None}
    trained = train(module, data, folder, optimization, recipe.devices, monitors[optimization.monitor], name)
    validation, test = _both_parts(module, material, trial)
    extra = {
        "chosen_epoch": trained.epoch,
        "num_epochs": trained.num_epochs,
        "monitor": optimization.monitor,
        "data_wait_share": trained.data_wait_share,
        "world_size": trained.trainer.world_size,
    }
    return Outcome(validation, test, trained.seconds, extra)


def _both_parts(module: Classifier, material: Material, trial: Trial) -> tuple[Scored, Scored]:
    data, devices = material.datamodule(trial.split, trial.seed), material.recipe.devices
    validation, test = (
        run_over(module, module.probabilities, loader, devices)
        for loader in (data.val_dataloader(), data.test_dataloader())
    )
    return validation, test
