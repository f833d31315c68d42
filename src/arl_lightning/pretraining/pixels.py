"""The pixel objectives put together: Eq. 3 and 4 with the weight of Eq. 6, without a second backward pass.

The graph is cut at the decoder's output. Both losses are differentiated with respect to it; from those gradients
follow the last layer's weight gradients, and so lambda; one backward pass from `output_gradient` then reaches decoder
and encoder.

Legend: B images (of all global views), N patches, P pixels of a patch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arl_lightning.models.decoder import Decoded
from arl_lightning.models.patches import patchify, unpatchify
from arl_lightning.objectives.adaptive_weight import adaptive_weight, last_layer_gradients
from arl_lightning.objectives.adversarial import compose, discriminator_accuracy, discriminator_loss, generator_loss
from arl_lightning.objectives.mim import denormalize_patches, normalize_patches, reconstruction_loss
from arl_lightning.objectives.precision import full_precision
from arl_lightning.pretraining.options import Adversarial, Reconstruction


@dataclass(frozen=True)
class PixelLosses:
    """What a step needs of the pixel objectives.

    Attributes:
        output_gradient: (B, N, P), gradient of `L_MIM + lambda * L_adv(G)` with respect to the reconstruction.
        discriminator: `L_adv(D)`, () with a graph that ends in D's parameters; zero times it while D rests; None
            without a discriminator.
        metrics: Detached () tensors by log name.
    """

    output_gradient: Tensor
    discriminator: Tensor | None
    metrics: dict[str, Tensor]


def pixel_losses(
    decoded: Decoded,
    images: Tensor,
    mask: Tensor,
    discriminator: nn.Module | None,
    grid_size: tuple[int, int],
    reconstruction: Reconstruction,
    adversarial: Adversarial,
    adversarial_begun: bool,
) -> PixelLosses:
    """Evaluate Eq. 3, 4 and 6.

    Args:
        decoded: The student's reconstruction, and the input of the layer that made it.
        images: (B, C, H, W), what the student saw through the mask.
        mask: (B, N) bool, True where hidden.
        discriminator: Maps images to (B, N) logits; None to leave the adversarial loss out.
        grid_size: Rows and columns of patches.
        reconstruction: The recipe's.
        adversarial: The recipe's.
        adversarial_begun: False while the discriminator waits for its start.
    """
    patch_size = images.shape[-2] // grid_size[0]
    patches = patchify(images, patch_size)
    output = full_precision(decoded.reconstruction.detach()).requires_grad_()
    target = normalize_patches(patches) if reconstruction.norm_pix_loss else patches
    mim = reconstruction_loss(output, target, mask)
    (mim_gradient,) = torch.autograd.grad(mim, output)
    metrics = {"train/loss/reconstruction": mim.detach()}
    if discriminator is None:
        return PixelLosses(mim_gradient, None, metrics)
    if not adversarial_begun:
        # One image keeps D's parameters in the graph, as gradient synchronisation wants, at next to no cost.
        return PixelLosses(mim_gradient, 0 * discriminator(images[:1]).sum(), metrics)

    pixels = denormalize_patches(output, patches) if reconstruction.norm_pix_loss else output
    fake = unpatchify(compose(pixels, patches, mask), grid_size, patch_size)
    fake_logits, real_logits = full_precision(discriminator(fake)), full_precision(discriminator(images))
    generator = generator_loss(fake_logits, mask, adversarial.loss)
    (adversarial_gradient,) = torch.autograd.grad(generator, output, retain_graph=True)
    mim_last, adversarial_last = last_layer_gradients((mim_gradient, adversarial_gradient), decoded.hidden)
    lambda_ = adaptive_weight(mim_last, adversarial_last)
    adaptive = adversarial.weighting == "adaptive"
    weight = adversarial.weight * (lambda_ if adaptive else torch.ones_like(lambda_))
    discrimination = discriminator_loss(real_logits, fake_logits, mask, adversarial.loss)
    real_accuracy, fake_accuracy = discriminator_accuracy(real_logits, fake_logits, mask)
    metrics |= {
        "train/loss/adversarial": generator.detach(),
        "train/loss/discriminator": discrimination.detach(),
        "train/adaptive_weight": lambda_,  # also where a constant stands in for it
        "train/adversarial_weight": weight,
        "train/gradient_norm/reconstruction": mim_last.norm(),
        "train/gradient_norm/adversarial": adversarial_last.norm(),
        "train/discriminator/real_accuracy": real_accuracy,
        "train/discriminator/fake_accuracy": fake_accuracy,
    }
    return PixelLosses(mim_gradient + weight * adversarial_gradient, discrimination, metrics)
