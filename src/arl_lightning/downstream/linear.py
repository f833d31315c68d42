"""Fits a linear classifier on features that are computed once.

Legend: N cases, D channels, K classes.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arl_lightning.downstream.classification import balanced_weights
from arl_lightning.downstream.heads import LinearHead
from arl_lightning.downstream.optimization import configure
from arl_lightning.downstream.options import Optimization
from arl_lightning.errors import UserError
from arl_lightning.evaluation.metrics import classification_metrics

Labelled = tuple[Tensor, Tensor]  # features (N, D) and labels (N,)

STRENGTHS = tuple(10.0**power for power in range(-6, 3))  # of sklearn's C; the weaker, the stronger the penalty
ABSENT = -1e4  # bias of a class without training cases: its probability is 0, and the loss stays finite


def fit_linear(
    head: LinearHead,
    train: Labelled,
    validation: Labelled,
    options: Optimization,
    peak: float,
    batch_size: int,
    seed: int,
    positive: int | None,
) -> dict[str, Any]:
    """Train a head by gradient descent, and keep the epoch that did best on validation.

    Args:
        head: Trained in place, on features as `fit_statistics` standardises them.
        train: Features with labels.
        validation: Likewise.
        options: Epochs, optimizer, schedule, and which metric chooses.
        peak: Peak learning rate.
        batch_size: Cases of one step.
        seed: Of the order.
        positive: Index of the positive class, where there are two.

    Returns:
        The chosen epoch and the number trained.
    """
    features, labels = train
    weights = balanced_weights(labels, head.linear.out_features) if options.class_weights == "balanced" else None
    steps = math.ceil(len(features) / batch_size)
    groups = [
        {"params": [head.linear.weight], "weight_decay": options.weight_decay},
        {"params": [head.linear.bias], "weight_decay": 0.0},
    ]
    configured = configure(groups, options, peak, steps)
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    order = torch.Generator().manual_seed(seed)
    best, chosen, state = -np.inf, 0, head.state_dict()
    head.cpu().train()
    for epoch in range(options.epochs):
        for batch in torch.randperm(len(features), generator=order).split(batch_size):
            loss = F.cross_entropy(
                head(features[batch]), labels[batch], weights, label_smoothing=options.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        score = _validation_score(head, validation, options, positive, epoch)
        if score > best:
            best, chosen = score, epoch
            state = {name: value.clone() for name, value in head.state_dict().items()}
        if options.patience and epoch - chosen >= options.patience:
            break
    head.load_state_dict(state)
    return {"chosen_epoch": chosen, "num_epochs": epoch + 1}


def fit_logistic(
    head: LinearHead,
    train: Labelled,
    validation: Labelled,
    options: Optimization,
    peak: float,
    batch_size: int,
    seed: int,
    positive: int | None,
) -> dict[str, Any]:
    """Fit a head by scikit-learn's L2-penalised logistic regression, the penalty with the lowest validation loss.

    Args:
        head: Receives the weights.
        train: Features with labels.
        validation: Likewise.
        options: The class weights.
        peak: Not used, as the solver has no steps and no draws.
        batch_size: Not used.
        seed: Not used.
        positive: Not used.

    Returns:
        The chosen strength.

    Raises:
        UserError: If all training cases are of one class.
    """
    from sklearn.linear_model import LogisticRegression

    features, labels = ((train[0] - head.mean.cpu()) / head.scale.cpu()).numpy(), train[1].numpy()
    if len(np.unique(labels)) < 2:
        raise UserError(
            "optimization.optimizer lbfgs: all training cases are of one class; raise fraction, change split.seed, or"
            " use sgd"
        )
    weight = "balanced" if options.class_weights == "balanced" else None
    best, chosen, state = -np.inf, STRENGTHS[0], head.state_dict()
    head.cpu()
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000, class_weight=weight).fit(features, labels)
        _copy(model.coef_, model.intercept_, model.classes_, head)
        score = -_loss(head, validation)
        if score > best:
            best, chosen = score, strength
            state = {name: value.clone() for name, value in head.state_dict().items()}
    head.load_state_dict(state)
    return {"chosen_strength": chosen}


@torch.no_grad()
def _copy(weight: np.ndarray, bias: np.ndarray, classes: np.ndarray, head: LinearHead) -> None:
    """Bring scikit-learn's weights, one row for two classes and none for absent ones, to the head's."""
    rows, offsets = torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
    if len(rows) == 1:
        rows, offsets = torch.cat((-rows / 2, rows / 2)), torch.cat((-offsets / 2, offsets / 2))
    present = torch.from_numpy(classes)
    head.linear.weight.zero_()
    head.linear.bias.fill_(ABSENT)
    head.linear.weight[present] = rows
    head.linear.bias[present] = offsets


@torch.no_grad()
def _validation_score(
    head: LinearHead, validation: Labelled, options: Optimization, positive: int | None, epoch: int
) -> float:
    """Return what is to be highest: AUROC, minus the loss, or the epoch."""
    if options.monitor == "last":
        return float(epoch)
    if options.monitor == "loss":
        return -_loss(head, validation)
    probabilities = head(validation[0]).double().softmax(dim=1).numpy()
    auroc = classification_metrics(validation[1].numpy(), probabilities, positive, names=["auroc"])["auroc"]
    return auroc if np.isfinite(auroc) else float(epoch)


@torch.no_grad()
def _loss(head: LinearHead, data: Labelled) -> float:
    return float(F.cross_entropy(head(data[0]).double(), data[1]))
