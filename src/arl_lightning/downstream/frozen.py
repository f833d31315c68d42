"""Linear probing and k-nearest neighbours on frozen features (appendix B).

Legend: N cases, D channels of features.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from arl_lightning.downstream.classification import Classifier
from arl_lightning.downstream.encoders import NONE
from arl_lightning.downstream.heads import LinearHead, NeighbourHead
from arl_lightning.downstream.inference import Scored, run_over
from arl_lightning.downstream.linear import fit_linear, fit_logistic
from arl_lightning.downstream.material import Material
from arl_lightning.downstream.optimization import peak_learning_rate
from arl_lightning.downstream.protocols import Outcome, classifier, optimization_of, trained_by_lightning
from arl_lightning.downstream.training import BEST
from arl_lightning.downstream.trials import Trial
from arl_lightning.training.checkpoint_io import AtomicCheckpointIO


def probe(material: Material, trial: Trial, folder: Path) -> Outcome:
    """Train a linear head on frozen features, computed once where nothing varies the images, else in each epoch."""
    recipe, split = material.recipe, trial.split
    pl.seed_everything(trial.seed, workers=True, verbose=False)
    module = classifier(material, trial, frozen=True)
    head = cast(LinearHead, module.head)
    features, extraction = features_of(module, material, trial)
    train_features = features.values[list(split.train)]
    head.fit_statistics(train_features)
    if recipe.augment.enabled:
        return trained_by_lightning(module, material, trial, folder, f"probe {recipe.task} {trial.name}".strip())
    optimization = optimization_of(material, trial)
    fit = fit_logistic if optimization.optimizer == "lbfgs" else fit_linear
    started = time.perf_counter()
    chosen = fit(
        head,
        (train_features, features.labels[list(split.train)]),
        (features.values[list(split.val)], features.labels[list(split.val)]),
        optimization,
        peak_learning_rate(optimization, recipe.loading.batch_size),
        recipe.loading.batch_size,
        trial.seed,
        material.positive,
    )
    seconds = time.perf_counter() - started
    return _scored(module, features, trial, folder, seconds, {"extraction_seconds": extraction, **chosen})


def knn(material: Material, trial: Trial, folder: Path) -> Outcome:
    """Let the nearest training features vote; nothing is trained."""
    recipe, places = material.recipe, list(trial.split.train)
    pl.seed_everything(trial.seed, workers=True, verbose=False)
    module = classifier(material, trial, frozen=True)
    features, seconds = features_of(module, material, trial)
    k, temperature = min(recipe.neighbours.k, len(places)), recipe.neighbours.temperature
    num_classes = len(material.listing.classes)
    module.head = NeighbourHead(features.values[places], features.labels[places], num_classes, k, temperature)
    module.description["neighbours"] = {"k": k, "temperature": temperature}  # no weights, yet the head needs them
    return _scored(module, features, trial, folder, seconds, {"k": k, "extraction_seconds": seconds})


def features_of(module: Classifier, material: Material, trial: Trial) -> tuple[Scored, float]:
    """Return the features of all cases as they are, (N, D) float32 by place, and the seconds that took.

    Trials with the same frozen weights share them: all of a checkpoint, those of one seed with random weights.
    """
    key = trial.seed if material.recipe.checkpoint == NONE else None
    started = time.perf_counter()
    if key not in material.features:
        loader = material.loader(range(len(material.listing.cases)))
        name = f"features {material.recipe.task}"
        found = run_over(module, module.features, loader, material.recipe.devices, name)
        material.features[key] = Scored(found.index, found.values.float(), found.labels)
    return material.features[key], time.perf_counter() - started


def _scored(
    module: Classifier, features: Scored, trial: Trial, folder: Path, seconds: float, extra: dict[str, Any]
) -> Outcome:
    """Score both parts by their features, and save the classifier."""
    module.cpu().eval()
    validation, test = (_of_part(module, features, places) for places in (trial.split.val, trial.split.test))
    checkpoint = {"state_dict": module.state_dict(), "epoch": 0, "arl_downstream": module.description}
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder / "checkpoints" / f"{BEST}.ckpt")
    return Outcome(validation, test, seconds, extra)


@torch.no_grad()
def _of_part(module: Classifier, features: Scored, places: Sequence[int]) -> Scored:
    chosen = list(places)
    logits: Tensor = module.head(features.values[chosen])
    return Scored(features.index[chosen], logits.double().softmax(dim=1), features.labels[chosen])
