"""The classification protocols: fine-tuning, linear probing, and k-nearest neighbours (appendix B).

Each trains on a trial's training cases, chooses on its validation cases, and says what it makes of these and of the
test cases.

Legend: N cases, D channels of features, K classes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from torch import Tensor

from arl_lightning.downstream.classification import Classifier, balanced_weights
from arl_lightning.downstream.heads import LinearHead, NeighbourHead
from arl_lightning.downstream.inference import Scored, run_over
from arl_lightning.downstream.linear import fit_linear, fit_logistic
from arl_lightning.downstream.material import Material
from arl_lightning.downstream.optimization import peak_learning_rate
from arl_lightning.downstream.options import Optimization
from arl_lightning.downstream.training import BEST, train
from arl_lightning.downstream.trials import Trial
from arl_lightning.training.checkpoint_io import AtomicCheckpointIO


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
    module = _classifier(material, trial, frozen=False)
    return _trained(module, material, trial, folder, f"finetune {recipe.task} {trial.name}".strip())


def probe(material: Material, trial: Trial, folder: Path) -> Outcome:
    """Train a linear head on frozen features, computed once where nothing varies the images, else in each epoch."""
    recipe = material.recipe
    pl.seed_everything(trial.seed, workers=True, verbose=False)
    module = _classifier(material, trial, frozen=True)
    head = cast(LinearHead, module.head)
    train_features, extraction = _features(module, material, trial.split.train)
    head.fit_statistics(train_features)
    if recipe.augment.enabled:
        return _trained(module, material, trial, folder, f"probe {recipe.task} {trial.name}".strip())
    val_features, more = _features(module, material, trial.split.val)
    labels, val_labels = material.labels(trial.split.train), material.labels(trial.split.val)
    started = time.perf_counter()
    optimization = optimization_of(material, trial)
    fit = fit_logistic if optimization.optimizer == "lbfgs" else fit_linear
    chosen = fit(
        head,
        (train_features, labels),
        (val_features, val_labels),
        optimization,
        peak_learning_rate(recipe.optimization, recipe.loading.batch_size),
        recipe.loading.batch_size,
        trial.seed,
        material.positive,
    )
    seconds = time.perf_counter() - started
    extra = {"extraction_seconds": extraction + more, **chosen}
    return _scored(module, material, trial, folder, seconds, extra)


def knn(material: Material, trial: Trial, folder: Path) -> Outcome:
    """Let the nearest training features vote; nothing is trained."""
    recipe = material.recipe
    pl.seed_everything(trial.seed, workers=True, verbose=False)
    module = _classifier(material, trial, frozen=True)
    features, seconds = _features(module, material, trial.split.train)
    k = min(recipe.neighbours.k, len(features))
    labels = material.labels(trial.split.train)
    temperature = recipe.neighbours.temperature
    module.head = NeighbourHead(features, labels, len(material.listing.classes), k, temperature)
    module.description["neighbours"] = {"k": k, "temperature": temperature}  # no weights, yet the head needs them
    return _scored(module, material, trial, folder, seconds, {"k": k, "extraction_seconds": seconds})


def optimization_of(material: Material, trial: Trial) -> Optimization:
    """Return the recipe's optimization; the loss chooses where the validation part, of one class, has no AUROC."""
    optimization = material.recipe.optimization
    if optimization.monitor == "auroc" and len(set(material.labels(trial.split.val).tolist())) < 2:
        return replace(optimization, monitor="loss")
    return optimization


def _classifier(material: Material, trial: Trial, frozen: bool) -> Classifier:
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


def _trained(module: Classifier, material: Material, trial: Trial, folder: Path, name: str) -> Outcome:
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


def _scored(
    module: Classifier, material: Material, trial: Trial, folder: Path, seconds: float, extra: dict[str, Any]
) -> Outcome:
    """Score both parts with a classifier that Lightning did not train, and save it."""
    validation, test = _both_parts(module, material, trial)
    checkpoint = {"state_dict": module.state_dict(), "epoch": 0, "arl_downstream": module.description}
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder / "checkpoints" / f"{BEST}.ckpt")
    return Outcome(validation, test, seconds, extra)


def _both_parts(module: Classifier, material: Material, trial: Trial) -> tuple[Scored, Scored]:
    data, devices = material.datamodule(trial.split, trial.seed), material.recipe.devices
    validation, test = (
        run_over(module, module.probabilities, loader, devices)
        for loader in (data.val_dataloader(), data.test_dataloader())
    )
    return validation, test


def _features(module: Classifier, material: Material, places: Sequence[int]) -> tuple[Tensor, float]:
    """Return (N, D) float32 features of cases as they are, in their order, and the seconds that took."""
    started = time.perf_counter()
    found = run_over(
        module,
        module.features,
        material.loader(places),
        material.recipe.devices,
        name=f"features {material.recipe.task}",
    )
    return found.values.float(), time.perf_counter() - started
