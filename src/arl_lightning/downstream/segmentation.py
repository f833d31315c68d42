"""Segmentation as a LightningModule: UPerNet on an encoder, all weights trained (paper section 4 and appendix B).

Legend: B images, K classes (background first), H rows and W columns of pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from arl_lightning.data.tasks.datamodule import TaskBatch
from arl_lightning.data.tasks.fit import Fit, unfit
from arl_lightning.distributed.collectives import gather_rows
from arl_lightning.downstream.encoders import Backbone
from arl_lightning.downstream.optimization import configure, parameter_groups, peak_learning_rate
from arl_lightning.downstream.options import Optimization
from arl_lightning.downstream.upernet import Norm, UPerNet
from arl_lightning.errors import UserError
from arl_lightning.evaluation.overlap import Overlap, mean_overlap, score_masks
from arl_lightning.objectives.dice import dice_loss, pixel_cross_entropy

Part = Literal["val", "test"]
PAPER = Optimization(base_lr=1e-4, scale_lr=False, layer_decay=1.0)  # appendix B names AdamW and the rate


@dataclass(frozen=True)
class Decoder:
    """The decoder.

    Args:
        channels: Of its maps; mmseg's 512.
        layers: Blocks of the encoder that it sees, four ascending numbers from 0; a quarter of the depth apart if None.
        norm: group, which is the same at any batch size, or batch.
        dropout: Of its channels before pixels are classified.
        auxiliary_weight: Weight of the loss of a second, small decoder, often 0.4; 0 leaves it out, as the paper names
            none.
    """

    channels: int = 512
    layers: tuple[int, ...] | None = None
    norm: Norm = "group"
    dropout: float = 0.1
    auxiliary_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise UserError(f"decoder.channels {self.channels}: must be at least 1")
        if self.auxiliary_weight < 0:
            raise UserError(f"decoder.auxiliary_weight {self.auxiliary_weight:g}: must be 0 or more")


class Segmenter(pl.LightningModule):
    """Trains UPerNet by cross-entropy and Dice, and scores predictions at the size of the files.

    After a validation or a test `scores["val"]` or `scores["test"]` has a row for each structure of each image, on
    every rank, ordered by image.

    Args:
        backbone: The encoder; changed, see `UPerNet`.
        structures: Names of what masks show, K - 1 of them.
        native_mask: Returns a case's mask at its file's size, (H, W), from its place in the list of cases; None where
            nothing is validated or tested.
        fit: How images became squares.
        decoder: The decoder.
        optimization: The recipe's.
        batch_size: Images of a batch on one rank.
    """

    def __init__(
        self,
        backbone: Backbone,
        structures: Sequence[str],
        native_mask: Callable[[int], np.ndarray] | None,
        fit: Fit = "squash",
        decoder: Decoder = Decoder(),
        optimization: Optimization = PAPER,
        batch_size: int = 1,
    ) -> None:
        super().__init__()
        self.network = UPerNet(
            backbone,
            len(structures) + 1,
            decoder.channels,
            decoder.layers,
            decoder.norm,
            decoder.dropout,
            auxiliary=decoder.auxiliary_weight > 0,
        )
        self.structures = tuple(structures)
        self.native_mask = native_mask
        self.fit: Fit = fit
        self.decoder = decoder
        self.optimization = optimization
        self.batch_size = batch_size
        self.scores: dict[Part, list[Overlap]] = {"val": [], "test": []}
        self.description: dict[str, Any] = {}  # what else the checkpoint holds

    def configure_model(self) -> None:
        """Let ranks on GPUs share batch norm's statistics; torch has no such norm for CPUs."""
        if self.trainer.world_size > 1 and self.trainer.strategy.root_device.type == "cuda":
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)

    def forward(self, image: Tensor, anatomy: Tensor | None) -> Tensor:
        """Segment uint8 images (B, C, H, W); returns (B, K, H, W) logits in float32."""
        return self.network(self.network.backbone.normalize(image), anatomy).float()

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """Segment, compare with the masks, and add the losses up."""
        image = self.network.backbone.normalize(batch["image"])
        logits, auxiliary = self.network.forward_both(image, batch["anatomy"])
        losses = segmentation_losses(logits, batch["mask"])
        total = losses["cross_entropy"] + losses["dice"]
        if auxiliary is not None:
            losses["auxiliary"] = sum(segmentation_losses(auxiliary, batch["mask"]).values(), torch.zeros_like(total))
            total = total + self.decoder.auxiliary_weight * losses["auxiliary"]
        self.log_dict({f"train/loss/{name}": loss.detach() for name, loss in losses.items()}, batch_size=len(image))
        return total

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """Score a batch."""
        logits = self(batch["image"], batch["anatomy"])
        losses = segmentation_losses(logits, batch["mask"])
        self.log("val/loss", losses["cross_entropy"] + losses["dice"], batch_size=len(logits), sync_dist=True)
        self.scores["val"] += self.score(logits, batch)

    def test_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """Score a batch."""
        self.scores["test"] += self.score(self(batch["image"], batch["anatomy"]), batch)

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the epoch before."""
        self.scores["val"] = []

    def on_test_epoch_start(self) -> None:
        """Forget earlier scores."""
        self.scores["test"] = []

    def on_validation_epoch_end(self) -> None:
        """Average over the images of all ranks."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Average over the images of all ranks."""
        self._finish("test")

    def score(self, logits: Tensor, batch: TaskBatch) -> list[Overlap]:
        """Compare (B, K, H, W) logits with the masks as they are in the files.

        Raises:
            ValueError: If there is nothing that returns these.
        """
        if self.native_mask is None:
            raise ValueError("scoring needs `native_mask`")
        rows: list[Overlap] = []
        for place, own in zip(batch["index"].tolist(), logits, strict=True):
            truth = self.native_mask(place)
            rows += score_masks(mask_of(own, self.fit, (truth.shape[0], truth.shape[1])), truth, self.structures, place)
        return rows

    @torch.no_grad()
    def predict_masks(
        self, image: Tensor, anatomy: Tensor | None, sizes: Sequence[tuple[int, int]]
    ) -> list[np.ndarray]:
        """Segment uint8 squares (B, C, H, W); returns a mask for each, of the height and width that its image had."""
        logits = self(image, anatomy)
        return [mask_of(own, self.fit, size) for own, size in zip(logits, sizes, strict=True)]

    def _finish(self, part: Part) -> None:
        self.scores[part] = unique_rows(gather_rows(self.scores[part]))
        means = {f"{part}/{name}": value for name, value in mean_overlap(self.scores[part]).items()}
        defined = {name: value for name, value in means.items() if not math.isnan(value)}
        self.log_dict(defined, rank_zero_only=False, sync_dist=False)  # every rank has gathered the same rows

    def configure_optimizers(self) -> Any:
        """Group the weights by block and schedule their rates."""
        peak = peak_learning_rate(self.optimization, self.batch_size * self.trainer.world_size)
        network = self.network
        decoder = nn.ModuleList([each for name, each in network.named_children() if name != "backbone"])
        groups = parameter_groups(network.backbone.network, decoder, self.optimization)
        steps = max(1, int(self.trainer.estimated_stepping_batches) // self.optimization.epochs)
        return dict(configure(groups, self.optimization, peak, steps))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add, as plain values, what rebuilds the network and names its structures."""
        checkpoint["arl_downstream"] = self.description


def segmentation_losses(logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return both terms, to be added unweighted (appendix B), of (B, K, H, W) logits and (B, H, W) int64 masks."""
    return {"cross_entropy": pixel_cross_entropy(logits, mask), "dice": dice_loss(logits, mask)}


def mask_of(logits: Tensor, fit: Fit, size: tuple[int, int]) -> np.ndarray:
    """Turn logits into a mask of an image's own size.

    Logits are enlarged, and not masks, whose outlines would have steps.

    Args:
        logits: (K, S, S).
        fit: How the image became the square; what the square lacks is background.
        size: Height and width of the image.

    Returns:
        uint8, 0 for background and k for structure k.
    """
    square = logits.float().movedim(0, -1).cpu().numpy()  # (K, S, S) -> (S, S, K)
    # Where all logits agree, as outside of the square, the first is taken: background.
    return unfit(square, fit, size).argmax(-1).astype(np.uint8)


def unique_rows(parts: Sequence[Sequence[Overlap]]) -> list[Overlap]:
    """Join the rows of all ranks, ordered by image; an image that several ranks saw, to fill up, counts once."""
    unique = {(row.index, row.structure): row for part in parts for row in part}
    return sorted(unique.values(), key=lambda row: row.index)  # stable: structures stay in their order
