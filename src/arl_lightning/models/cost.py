"""What an encoder costs: parameters and the multiply-accumulates of one image."""

from dataclasses import dataclass

import torch
from timm.models import VisionTransformer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from arl_lightning.models.acdt import AnatomyConditionedSampling
from arl_lightning.models.encoder import AViT


@dataclass(frozen=True)
class Cost:
    """Cost of encoding one image, without a classifier head.

    Attributes:
        parameters: Number of parameters.
        macs: Multiply-accumulates of matrix products, convolutions, attention and deformable kernels.
        bilinear_macs: Multiply-accumulates of the bilinear sampling (S of Eq. 1), not in `macs`.
    """

    parameters: int
    macs: int
    bilinear_macs: int


def model_cost(model: VisionTransformer, image_size: int) -> Cost:
    """Count an encoder's parameters and operations; on the meta device nothing is computed.

    Element-wise work does not count: norms, activations, residuals, the corners of a sampling location.

    Args:
        model: A-ViT or timm's ViT.
        image_size: Pixels a side.
    """
    sampling = [module for module in model.modules() if isinstance(module, AnatomyConditionedSampling)]
    sampled = [module.sampling_macs((image_size // model.patch_embed.patch_size[0]) ** 2) for module in sampling]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(
        parameters=parameters - sum(parameter.numel() for parameter in model.head.parameters()),
        macs=_product_macs(model, image_size) + sum(kernel for kernel, _ in sampled),
        bilinear_macs=sum(bilinear for _, bilinear in sampled),
    )


def _product_macs(model: VisionTransformer, image_size: int) -> int:
    """Count what PyTorch's counter sees: products and convolutions, at two operations a multiply-accumulate."""
    projection = model.patch_embed.proj
    image = projection.weight.new_zeros(1, projection.in_channels, image_size, image_size)
    inputs = [image]
    if isinstance(model, AViT):
        inputs.append(torch.zeros(1, dtype=torch.long, device=image.device))  # anatomy 0
    # The counter knows attention as its two products, not as the CPU's fused kernel.
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.forward_features(*inputs)
    return counter.get_total_flops() // 2
