"""A downstream run as a recipe says it: what is trained, on what, from which weights."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from arl_lightning.data.tasks.augment import Augment
from arl_lightning.data.tasks.datamodule import Loading
from arl_lightning.data.tasks.open import PHANTOM
from arl_lightning.data.tasks.splits import SplitOptions
from arl_lightning.downstream.encoders import NONE
from arl_lightning.downstream.options import Devices, Encoder, Neighbours, Optimization
from arl_lightning.downstream.segmentation import Decoder
from arl_lightning.errors import UserError

ProtocolName = Literal["finetune", "probe", "knn", "segment"]

PHANTOM_TEST, PHANTOM_VAL = 0.3, 0.2
RESULT_KEYS = ("out", "overwrite")  # where a run lies does not change what it is


@dataclass(frozen=True)
class Recipe:
    """All keys of `arl finetune`, `probe`, `knn` and `segment`.

    Args:
        task: busi, gbcu, pocus, echonet, thyroid, echo_views, or custom for a table of your own.
        root: The set's folder; `phantom` draws made-up images.
        table: A csv file image,label[,patient][,split][,mask] to read instead of the released layout.
        checkpoint: A checkpoint of `arl pretrain`, an exported .safetensors, timm:NAME, ADAPTER:FILE, none for random
            weights, or pixels for no network at all (probe and knn).
        anatomy: What A-ViT is told the images show: the task's anatomy where None, none for nothing, or another one, to
            measure what the conditioning is worth.
        seeds: Each is a run of its own: of weights, order, augmentation and, below fraction 1, of the labels kept.
        folds: Test on every case once, in this many folds, instead of on one test part.
        fraction: Shares of the training labels to use; a smaller one lies within a larger one.
        skip_damaged: Leave out files that cannot be used instead of refusing them.
        out: Folder of the run; runs/PROTOCOL/TASK where None.
        overwrite: Replace what a finished run left there.
        encoder: The encoder.
        optimization: Optimizer, schedule, and when training ends.
        split: Which cases are trained on, chosen by, and reported on.
        loading: How images are decoded and batched.
        augment: What is done to training images.
        neighbours: Of k-NN.
        decoder: Of segmentation.
        devices: What it runs on.
    """

    task: str
    root: Path | None = None
    table: Path | None = None
    checkpoint: str = NONE
    anatomy: str | None = None
    seeds: tuple[int, ...] = (0,)
    folds: int | None = None
    fraction: tuple[float, ...] = (1.0,)
    skip_damaged: bool = False
    out: Path | None = None
    overwrite: bool = False
    encoder: Encoder = Encoder()
    optimization: Optimization = Optimization()
    split: SplitOptions = SplitOptions()
    loading: Loading = Loading()
    augment: Augment = Augment()
    neighbours: Neighbours = Neighbours()
    decoder: Decoder = Decoder()
    devices: Devices = Devices()
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("seeds", "fraction"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"{name} {list(values)}: name at least one, each once")
        if self.folds is not None and len(self.fraction) > 1:
            raise UserError("folds and fraction: give several of one only")

    @property
    def splitting(self) -> SplitOptions:
        """How cases are split: phantoms, too few for the sizes of the real set, by shares."""
        if self.root != PHANTOM:
            return self.split
        test, val = min(self.split.test, PHANTOM_TEST), min(self.split.val, PHANTOM_VAL)
        return dataclasses.replace(self.split, test=test, val=val)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON holds it, without what does not change the numbers."""
        kept = {name: value for name, value in dataclasses.asdict(self).items() if name not in RESULT_KEYS}
        plain: dict[str, Any] = _plain({**kept, "split": dataclasses.asdict(self.splitting)})
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
