"""The weight of the adversarial loss (paper Eq. 6).

Legend: B images, N patches, P pixels of a patch, E decoder channels.
"""

import torch
from torch import Tensor

from arl_lightning.distributed.collectives import all_reduce_mean
from arl_lightning.objectives.precision import autocast_off


def adaptive_weight(
    mim_gradient: Tensor, adversarial_gradient: Tensor, epsilon: float = 1e-4, maximum: float = 1e4
) -> Tensor:
    """Eq. 6: `lambda = |grad L_MIM| / (|grad L_adv| + epsilon)`, detached.

    The paper does not say with respect to what the gradients are taken: ours are those of the decoder's last linear
    layer, as in VQGAN, of the global batch. Epsilon and the maximum are ours.

    Args:
        mim_gradient: Any shape, at least float32.
        adversarial_gradient: Likewise.
        epsilon: Added to the denominator.
        maximum: Upper bound of the weight.
    """
    ratio = mim_gradient.norm() / (adversarial_gradient.norm() + epsilon)
    return ratio.clamp(max=maximum).detach()


def last_layer_gradients(output_gradients: tuple[Tensor, ...], hidden: Tensor) -> list[Tensor]:
    """Form the last linear layer's weight gradients for the global batch, without a backward pass.

    Norms of one rank's gradients would give another weight on every rank: the gradients themselves are averaged over
    the ranks first, as the gradient of the averaged loss is.

    Args:
        output_gradients: Each (B, N, P), the gradient of a loss with respect to the layer's output.
        hidden: (B, N, E), the layer's input.

    Returns:
        A (P, E) gradient for each.
    """
    hidden = hidden.detach().to(output_gradients[0].dtype)
    with autocast_off(hidden):
        local = torch.stack([torch.einsum("bnp,bne->pe", gradient, hidden) for gradient in output_gradients])
    return list(all_reduce_mean(local).unbind())
