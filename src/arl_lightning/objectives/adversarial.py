"""The adversarial objective on reconstructed patches (paper Eq. 4).

The discriminator sees whole images, judges every patch, and only the hidden patches count: the reconstruction
pasted among the visible patches is the fake, the same places of the true image are the real.

Legend: B images, N patches, P pixels of a patch.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

AdversarialLoss = Literal["bce", "hinge"]


def compose(reconstruction: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
    """Paste reconstructed patches where the (B, N) mask hides the true ones; all (B, N, P)."""
    return torch.where(mask[..., None], reconstruction, patches)


def generator_loss(fake_logits: Tensor, mask: Tensor, kind: AdversarialLoss = "bce") -> Tensor:
    """Eq. 4, right: `-E[log D(x_hat)]`, non-saturating; or its hinge form.

    Args:
        fake_logits: (B, N), positive for "real".
        mask: (B, N) bool, True where hidden; only these count.
        kind: `bce` as the paper, or `hinge`.
    """
    return _over_hidden(F.softplus(-fake_logits) if kind == "bce" else -fake_logits, mask)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, mask: Tensor, kind: AdversarialLoss = "bce") -> Tensor:
    """Eq. 4, left: `-E[log D(x)] - E[log(1 - D(x_hat))]`; or its hinge form.

    Args:
        real_logits: (B, N) of true images, positive for "real".
        fake_logits: (B, N) of composed images.
        mask: (B, N) bool, True where hidden; only these count.
        kind: `bce` as the paper, or `hinge`.
    """
    if kind == "bce":
        return _over_hidden(F.softplus(-real_logits) + F.softplus(fake_logits), mask)
    return _over_hidden(F.relu(1 - real_logits) + F.relu(1 + fake_logits), mask)


def discriminator_accuracy(real_logits: Tensor, fake_logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shares of hidden patches told right, true ones and reconstructed ones."""
    return _over_hidden((real_logits > 0).float(), mask), _over_hidden((fake_logits < 0).float(), mask)


def _over_hidden(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()
