"""The recipe keys of the downstream protocols, one group a concern.

Where the paper gives a value (appendix B) it is the default of the recipes in `recipes/`; the rest is ours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from arl_lightning.errors import UserError
from arl_lightning.models.weights import Network

Pooling = Literal["gap", "cls"]


class Range(NamedTuple):
    """The numbers that a key may have; infinity and nan never."""

    low: float
    high: float = math.inf
    above: bool = False  # `low` itself is out
    below: bool = False  # `high` itself is out

    def __contains__(self, value: object) -> bool:
        number = float(value)  # type: ignore[arg-type]
        is_low = number > self.low if self.above else number >= self.low
        is_high = number < self.high if self.below else number <= self.high
        return math.isfinite(number) and is_low and is_high

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        return low if self.high == math.inf else f"{low} and {'below' if self.below else 'at most'} {self.high:g}"


def refuse_outside(group: str, options: object, ranges: Mapping[str, Range]) -> None:
    """See that numbers, and each of several, have sense; None has.

    Args:
        group: The recipe's name of the options.
        options: A dataclass.
        ranges: By key.

    Raises:
        UserError: If one is out of its range.
    """
    for name, known in ranges.items():
        given = getattr(options, name)
        for value in given if isinstance(given, tuple | list) else (given,):
            if value is not None and value not in known:
                raise UserError(f"{group}.{name} {value:g}: must be {known}")


@dataclass(frozen=True)
class Encoder:
    """The encoder that a protocol starts from.

    Args:
        name: A timm model, A-ViT included, where the checkpoint does not say which: for `none` and for adapters.
        in_chans: Image channels; the checkpoint's where None, else 1 (3 for a timm model with its own weights).
        weights: Which of a pretraining checkpoint's two networks.
        pooling: gap averages the patch tokens (appendix B), cls takes the class token.
        drop_path: Stochastic depth rate of the last block, while all weights are trained.
        checkpoint_gradients: Recompute activations in the backward pass to save memory.
    """

    name: str = "avit_base_patch16_224"
    in_chans: int | None = None
    weights: Network = "teacher"
    pooling: Pooling = "gap"
    drop_path: float = 0.1
    checkpoint_gradients: bool = False

    def __post_init__(self) -> None:
        if self.in_chans not in (None, 1, 3):
            raise UserError(f"encoder.in_chans {self.in_chans}: must be 1 or 3")
        refuse_outside("encoder", self, {"drop_path": Range(0, 1, below=True)})


@dataclass(frozen=True)
class Optimization:
    """How weights are trained, and when training ends.

    Args:
        optimizer: adamw; sgd (linear probing); or lbfgs, for the probe of features that nothing varies: logistic
            regression whose penalty has the lowest validation loss.
        epochs: Most passes over the training cases.
        base_lr: Peak learning rate, for a global batch of 256 images where `scale_lr` is on.
        scale_lr: Scale the rate linearly with the global batch.
        betas: AdamW's.
        momentum: SGD's.
        weight_decay: Of matrices; biases and norms have none.
        layer_decay: Each block's rate is this much of the next one's; 1 gives all the same.
        warmup_epochs: Epochs over which the rate rises linearly; then it falls along a cosine.
        min_lr_ratio: Last rate over the peak.
        clip: Largest gradient norm, 0 for none.
        label_smoothing: Share of the target that goes to all classes.
        class_weights: balanced weighs the loss inversely to class counts.
        monitor: Decides on validation cases which epoch is kept: the highest AUROC (of masks, Dice), the lowest loss,
            which also decides where validation cases are of one class, or the last.
        patience: Epochs without a better validation before training stops; 0 trains all.
    """

    optimizer: Literal["adamw", "sgd", "lbfgs"] = "adamw"
    epochs: int = 50
    base_lr: float = 1e-3
    scale_lr: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    warmup_epochs: float = 5.0
    min_lr_ratio: float = 0.0
    clip: float = 0.0
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    monitor: Literal["auroc", "loss", "last"] = "auroc"
    patience: int = 0

    def __post_init__(self) -> None:
        share, not_all = Range(0, 1), Range(0, 1, below=True)
        ranges = {
            "epochs": Range(1),
            "base_lr": Range(0, above=True),
            "betas": not_all,
            "momentum": not_all,
            "weight_decay": Range(0),
            "layer_decay": Range(0, 1, above=True),
            "warmup_epochs": Range(0),
            "min_lr_ratio": share,
            "clip": Range(0),
            "label_smoothing": not_all,
            "patience": Range(0),
        }
        refuse_outside("optimization", self, ranges)


@dataclass(frozen=True)
class Devices:
    """What a run is trained on; Lightning's names.

    Args:
        accelerator: cpu, cuda, or auto.
        devices: Processes on this node.
        num_nodes: Nodes.
        strategy: auto, or ddp.
        precision: 32-true, bf16-mixed or 64-true.
        deterministic: Refuse operations whose result may differ from run to run.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    deterministic: bool = True

    def __post_init__(self) -> None:
        refuse_outside("devices", self, {"devices": Range(1), "num_nodes": Range(1)})


@dataclass(frozen=True)
class Neighbours:
    """k-nearest-neighbour classification of frozen features.

    Args:
        k: Neighbours that vote; all training cases where there are fewer.
        temperature: A neighbour's vote weighs exp(cosine similarity / temperature).
    """

    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        refuse_outside("neighbours", self, {"k": Range(1), "temperature": Range(0, above=True)})
