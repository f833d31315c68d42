"""What stands on an encoder's features: a linear classifier, or neighbours among known features.

Legend: B images, N known features, D channels, K classes.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arl_lightning.errors import UserError


class LinearHead(nn.Module):
    """Standardise features, then classify linearly.

    The statistics are those of the training features (`fit_statistics`); until then features pass as they are. A frozen
    encoder's channels differ in scale by orders of magnitude, which one learning rate cannot serve.

    Args:
        dim: D.
        num_classes: K.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.linear = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    @torch.no_grad()
    def fit_statistics(self, features: Tensor) -> None:
        """Take mean and standard deviation from (N, D) training features."""
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(features.std(dim=0, correction=0).clamp_min(1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, D) features to (B, K) logits, in full precision whatever the encoder ran in."""
        with torch.autocast(features.device.type, enabled=False):
            return cast(Tensor, self.linear((features.to(self.mean.dtype) - self.mean) / self.scale))


class NeighbourHead(nn.Module):
    """Weighted k-nearest-neighbour classifier on cosine similarity (as Caron et al., DINO, 2021; Wu et al., 2018).

    Each of the k nearest training features votes for its class with weight exp(similarity / temperature). That is
    computed in float32 whatever the precision around it: bfloat16 has three digits, too few to rank cosines near 1.

    Args:
        features: (N, D) of the training cases.
        labels: (N,) int64.
        num_classes: K.
        k: Neighbours that vote.
        temperature: Of the weights.

    Raises:
        UserError: If there are fewer training cases than neighbours asked for.
    """

    bank: Tensor
    labels: Tensor

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, k: int, temperature: float) -> None:
        super().__init__()
        if not 1 <= k <= len(features):
            raise UserError(f"k {k}: must be 1 to {len(features)}, the number of training cases")
        self.register_buffer("bank", F.normalize(features.float(), dim=1))
        self.register_buffer("labels", labels)
        self.num_classes, self.k, self.temperature = num_classes, k, temperature

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, D) features to (B, K) logarithms of the classes' shares of the votes."""
        with torch.autocast(features.device.type, enabled=False):
            similarity = F.normalize(features.float(), dim=1) @ self.bank.T  # (B, N)
        nearest, places = similarity.topk(self.k, dim=1)
        weights = (nearest / self.temperature).softmax(dim=1)
        votes = torch.zeros(len(features), self.num_classes, dtype=weights.dtype, device=weights.device)
        votes.scatter_add_(1, self.labels[places], weights)
        return votes.clamp_min(torch.finfo(votes.dtype).tiny).log()
