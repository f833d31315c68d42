"""The recipe keys of the downstream protocols, one group a concern.

Where the paper gives a value (appendix B) it is the default of the recipes in `recipes/`; the rest is ours.
"""

from dataclasses import dataclass
from typing import Literal

from arl_lightning.errors import UserError
from arl_lightning.models.weights import Network

Pooling = Literal["gap", "cls"]


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
        if self.epochs < 1:
            raise UserError(f"optimization.epochs {self.epochs}: must be at least 1")
        if self.base_lr <= 0:
            raise UserError(f"optimization.base_lr {self.base_lr:g}: must be above 0")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"optimization.layer_decay {self.layer_decay:g}: must be above 0 and at most 1")


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
        if self.k < 1 or self.temperature <= 0:
            raise UserError(f"neighbours: k {self.k} and temperature {self.temperature:g} must be above 0")
