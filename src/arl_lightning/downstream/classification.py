"""Fine-tuning and linear probing as one LightningModule (appendix B).

Legend: B images, C channels, D channels of features, K classes.
"""

from typing import Any, cast

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arl_lightning.data.tasks.datamodule import TaskBatch
from arl_lightning.downstream.encoders import Backbone
from arl_lightning.downstream.inference import Row, collect
from arl_lightning.downstream.optimization import configure, parameter_groups, peak_learning_rate
from arl_lightning.downstream.options import Optimization, Pooling
from arl_lightning.evaluation.metrics import classification_metrics


class Classifier(pl.LightningModule):
    """An encoder with a head, trained whole or under a frozen encoder.

    Args:
        backbone: The encoder.
        head: Maps (B, D) features to (B, K) logits.
        pooling: How tokens become one feature vector.
        optimization: The recipe's.
        batch_size: Images of a batch on one rank.
        class_weights: (K,) weights of the loss, or None.
        positive: Index of the class that AUROC speaks of, where there are two.
        frozen: Train the head alone.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        pooling: Pooling,
        optimization: Optimization,
        batch_size: int,
        class_weights: Tensor | None = None,
        positive: int | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.pooling: Pooling = pooling
        self.optimization = optimization
        self.batch_size = batch_size
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.positive = positive
        self.frozen = frozen
        self.description: dict[str, Any] = {}  # what else the checkpoint holds
        self._rows: list[Row] = []
        if frozen:
            backbone.requires_grad_(False)

    def forward(self, image: Tensor, anatomy: Tensor | None) -> Tensor:
        """Classify uint8 images (B, C, H, W); returns (B, K) logits in float32."""
        return cast(Tensor, self.head(self.features(image, anatomy))).float()

    def features(self, image: Tensor, anatomy: Tensor | None) -> Tensor:
        """Return the pooled features of uint8 images, (B, D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.backbone.pooled(self.backbone.normalize(image), anatomy, self.pooling)

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """Cross-entropy on a batch."""
        logits = self(batch["image"], batch["anatomy"])
        weights = cast(Tensor | None, self.class_weights)
        loss = F.cross_entropy(logits, batch["label"], weights, label_smoothing=self.optimization.label_smoothing)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(logits), sync_dist=True)
        return loss

    def on_train_epoch_start(self) -> None:
        """Keep a frozen encoder free of dropout and stochastic depth."""
        if self.frozen:
            self.backbone.eval()

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """Collect what the classifier says of a batch."""
        probabilities = self.probabilities(batch["image"], batch["anatomy"])
        self._rows.append((batch["index"].cpu(), probabilities.cpu(), batch["label"].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of all validation cases, over all ranks."""
        scored = collect(self._rows)
        self._rows.clear()
        metrics = classification_metrics(scored.labels.numpy(), scored.values.numpy(), self.positive)
        chosen = {f"val/{name}": metrics[name] for name in ("auroc", "accuracy") if name in metrics}
        chosen["val/loss"] = float(F.nll_loss(scored.values.clamp_min(1e-12).log(), scored.labels))
        self.log_dict(chosen, rank_zero_only=False, sync_dist=False)  # every rank has gathered the same rows

    def probabilities(self, image: Tensor, anatomy: Tensor | None) -> Tensor:
        """Return (B, K) float64 probabilities of uint8 images."""
        return self(image, anatomy).double().softmax(dim=1)

    def configure_optimizers(self) -> Any:
        """Group the weights by block and schedule their rates."""
        trainer = self.trainer
        peak = peak_learning_rate(self.optimization, self.batch_size * trainer.world_size)
        encoder = None if self.frozen else self.backbone.network
        groups = parameter_groups(encoder, self.head, self.optimization)
        steps = max(1, int(trainer.estimated_stepping_batches) // self.optimization.epochs)
        return dict(configure(groups, self.optimization, peak, steps))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add, as plain values, what rebuilds the network and names its classes."""
        checkpoint["arl_downstream"] = self.description


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return (K,) weights inversely proportional to class counts; of mean 1 over the cases if no class is missing."""
    counts = torch.bincount(labels, minlength=num_classes).clamp_min(1)
    return len(labels) / (num_classes * counts.float())
