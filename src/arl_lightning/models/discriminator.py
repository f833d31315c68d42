"""The patch discriminator D of Eq. 4.

Legend: B images, C channels, N patches.
"""

from timm.layers import LayerNorm2d
from torch import Tensor, nn


def _prime_factors(number: int) -> list[int]:
    factors, factor = [], 2
    while number > 1:
        while number % factor == 0:
            factors.append(factor)
            number //= factor
        factor += 1
    return factors


class PatchDiscriminator(nn.Module):
    """Convolutions that judge every patch of an image with one logit: real (positive) or reconstructed.

    The paper leaves D open. Strided convolutions bring the image to the patch grid, so that a logit's receptive field
    is its patch and a margin around it. Norms are over channels at each position: nothing is shared between the
    images of a batch (no BatchNorm), nor between distant patches.

    Args:
        patch_size: Pixels a side of a patch; any integer above 1.
        in_chans: C.
        width: Channels after the first convolution; doubled at each further one, up to eight times.
    """

    def __init__(self, patch_size: int, in_chans: int = 1, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_chans
        for index, factor in enumerate(_prime_factors(patch_size)):
            out_channels = width * min(2**index, 8)
            layers.append(nn.Conv2d(channels, out_channels, factor + 2, stride=factor, padding=1))
            if index > 0:
                layers.append(LayerNorm2d(out_channels))
            layers.append(nn.LeakyReLU(0.2))
            channels = out_channels
        layers.append(nn.Conv2d(channels, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Judge (B, C, H, W) images; returns (B, N) logits in the order of the patches."""
        return self.layers(image).flatten(1)  # (B, 1, rows, columns) -> (B, N)
