"""The self-distillation head.

Legend: ... any leading dimensions, D encoder channels, K prototypes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PrototypeLayer(nn.Module):
    """Cosine similarity to K prototypes: a weight-normalised linear layer whose gains stay at one.

    Args:
        dim: Channels of the input.
        num_prototypes: K.
    """

    def __init__(self, dim: int, num_prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_prototypes, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        """Map (..., dim) to (..., K) in [-1, 1]."""
        return F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


class DINOHead(nn.Module):
    """Three-layer projection, then similarity to prototypes, as in DINO (paper section 3.4).

    Args:
        in_dim: D.
        num_prototypes: K, the N of Eq. 5.
        hidden_dim: Channels of the two hidden layers.
        bottleneck_dim: Channels in which tokens and prototypes are compared.
    """

    def __init__(
        self, in_dim: int, num_prototypes: int = 65536, hidden_dim: int = 2048, bottleneck_dim: int = 256
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                # About DINO's 0.02 at its 2048 channels; a fixed 0.02 makes a narrow head's gradients soar.
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        self.last = PrototypeLayer(bottleneck_dim, num_prototypes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., D) tokens to (..., K) logits."""
        return self.last(self.mlp(tokens))
