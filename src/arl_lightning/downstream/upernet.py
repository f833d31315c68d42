"""UPerNet on a plain vision transformer (Xiao et al. 2018), whose decoder is OpenMMLab's.

A plain transformer has one resolution; the decoder wants four. As is usual (BEiT, MAE), the outputs of four blocks, a
quarter of the depth apart, are brought to 4, 2, 1 and 1/2 times the patch grid, the earliest block the finest.

Legend: B images, K classes (background first), H rows and W columns of pixels, D channels, h rows and w columns of
patches, L = 4 levels.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arl_lightning.downstream.encoders import Backbone
from arl_lightning.errors import UserError

Norm = Literal["group", "batch"]
NUM_LEVELS = 4
GROUP_CHANNELS = 16  # least channels of a group
AUXILIARY_LEVEL, AUXILIARY_CHANNELS = 2, 256


class UPerNet(nn.Module):
    """Segments images from four blocks of an encoder.

    The norm of the decoder is a choice: `batch` is the published one. `group` (Wu and He 2018) is the default because
    it does not depend on the batch: the decoder's branch that pools a whole image to one pixel leaves batch norm the B
    numbers of a batch to normalise by, 8 on a CPU, 1 in a last incomplete batch, where it fails; what is validated is
    what was trained; and ranks agree without exchanging statistics.

    Args:
        backbone: The encoder; trained along. What lies behind the last block used is removed from it, so that every
            parameter has a gradient.
        num_classes: K, structures and background.
        channels: Of the decoder.
        layers: Blocks whose outputs are used, four ascending numbers from 0; None for a quarter of the depth apart.
        norm: group or batch.
        dropout: Of the decoder's channels before they are classified.
        auxiliary: Add a second, small decoder on the third level, which helps to train the encoder.

    Raises:
        UserError: If the layers do not fit the encoder.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        channels: int = 512,
        layers: Sequence[int] | None = None,
        norm: Norm = "group",
        dropout: float = 0.1,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.layers = spread_layers(backbone.depth) if layers is None else checked_layers(layers, backbone.depth)
        backbone.network.prune_intermediate_layers(list(self.layers), prune_norm=True)
        self.backbone = backbone
        self.pyramid = Pyramid(backbone.embed_dim, norm)
        self.head = uper_head(backbone.embed_dim, num_classes, channels, norm, dropout)
        self.auxiliary_head = fcn_head(backbone.embed_dim, num_classes, norm, dropout) if auxiliary else None

    def forward(self, image: Tensor, anatomy: Tensor | None = None) -> Tensor:
        """Segment images.

        Args:
            image: (B, C, H, W), normalised.
            anatomy: (B,) int64 vocabulary indices, or None for no conditioning.

        Returns:
            (B, K, H, W) logits.
        """
        return _enlarged(self.head(self.levels(image, anatomy)), image)

    def forward_both(self, image: Tensor, anatomy: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Segment images for training: the logits, and those of the auxiliary decoder where there is one."""
        levels = self.levels(image, anatomy)
        auxiliary = None if self.auxiliary_head is None else _enlarged(self.auxiliary_head(levels), image)
        return _enlarged(self.head(levels), image), auxiliary

    def levels(self, image: Tensor, anatomy: Tensor | None) -> list[Tensor]:
        """Return L feature maps, (B, D, 4 h, 4 w) to (B, D, h / 2, w / 2)."""
        return self.pyramid(self.backbone.intermediates(image, self.layers, anatomy))


class Pyramid(nn.Module):
    """Brings four maps of one resolution to 4, 2, 1 and 1/2 times that.

    Args:
        dim: Channels D of each map.
        norm: Of the finest level, between its two enlargements.
    """

    def __init__(self, dim: int, norm: Norm) -> None:
        super().__init__()
        kinds = {"group": nn.GroupNorm(_num_groups(dim), dim), "batch": nn.BatchNorm2d(dim)}
        self.scales = nn.ModuleList(
            [
                nn.Sequential(_doubled(dim), kinds[norm], nn.GELU(), _doubled(dim)),
                _doubled(dim),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),  # a grid of one patch, or of an odd number, keeps its last
            ]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Scale L maps, (B, D, h, w) each."""
        return [scale(grid) for scale, grid in zip(self.scales, maps, strict=True)]


class RegionMeans(nn.Module):
    """Averages a map over a grid of regions, as `nn.AdaptiveAvgPool2d`, whose gradient has no fixed order on a GPU.

    Args:
        size: Regions a side.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, grid: Tensor) -> Tensor:
        """Return the (B, D, size, size) means of a (B, D, h, w) map."""
        rows, columns = (self._shares(length).to(grid) for length in grid.shape[-2:])
        return rows @ grid @ columns.T

    def _shares(self, length: int) -> Tensor:
        """Return (size, length): by how much each place counts in each region."""
        edges = [(place * length // self.size, -(-(place + 1) * length // self.size)) for place in range(self.size)]
        shares = torch.zeros(self.size, length)
        for row, (start, end) in zip(shares, edges, strict=True):
            row[start:end] = 1 / (end - start)
        return shares


def uper_head(dim: int, num_classes: int, channels: int, norm: Norm, dropout: float) -> nn.Module:
    """Build mmseg's UPerNet decoder: L maps of D channels in, (B, K, 4 h, 4 w) logits out."""
    with mmseg_imports():
        from mmseg.models.decode_heads.uper_head import UPerHead  # type: ignore[import-untyped]
    head = UPerHead(
        in_channels=[dim] * NUM_LEVELS,
        in_index=list(range(NUM_LEVELS)),
        channels=channels,
        norm_cfg=_norm_config(norm, channels),
        **_common(num_classes, dropout),
    )
    for branch in head.psp_modules:
        branch[0] = RegionMeans(branch[0].output_size)
    return _with_first_weights(head)


def fcn_head(dim: int, num_classes: int, norm: Norm, dropout: float) -> nn.Module:
    """Build mmseg's small decoder: L maps of D channels in, logits at the resolution of the third out."""
    with mmseg_imports():
        from mmseg.models.decode_heads.fcn_head import FCNHead  # type: ignore[import-untyped]
    head = FCNHead(
        in_channels=dim,
        in_index=AUXILIARY_LEVEL,
        channels=AUXILIARY_CHANNELS,
        num_convs=1,
        concat_input=False,
        norm_cfg=_norm_config(norm, AUXILIARY_CHANNELS),
        **_common(num_classes, dropout),
    )
    return _with_first_weights(head)


def spread_layers(depth: int) -> tuple[int, ...]:
    """Return the last block of each quarter of an encoder: 2, 5, 8, 11 of twelve.

    Raises:
        UserError: If it has fewer than four blocks.
    """
    if depth < NUM_LEVELS:
        raise UserError(f"encoder of {depth} blocks: UPerNet needs {NUM_LEVELS} of them")
    return tuple(depth * quarter // NUM_LEVELS - 1 for quarter in range(1, NUM_LEVELS + 1))


def checked_layers(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return the layers if they are four ascending blocks of an encoder.

    Raises:
        UserError: If not.
    """
    if len(layers) != NUM_LEVELS or sorted(set(layers)) != list(layers) or not 0 <= layers[0] <= layers[-1] < depth:
        said = ", ".join(str(layer) for layer in layers) or "none"
        raise UserError(f"layers {said}: must be {NUM_LEVELS} ascending block numbers from 0 to {depth - 1}")
    return tuple(layers)


def _enlarged(logits: Tensor, image: Tensor) -> Tensor:
    return F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False)


def _doubled(dim: int) -> nn.Module:
    return nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)


def _norm_config(norm: Norm, channels: int) -> dict[str, Any]:
    return {"type": "BN"} if norm == "batch" else {"type": "GN", "num_groups": _num_groups(channels)}


def _num_groups(channels: int) -> int:
    """Return the most groups that leave each enough channels.

    Where an image is pooled to one pixel a group is nothing but its channels: the usual 32 groups of a narrow decoder
    would leave it two, of which normalising keeps but the sign.
    """
    return max(groups for groups in range(1, max(channels // GROUP_CHANNELS, 1) + 1) if channels % groups == 0)


def _common(num_classes: int, dropout: float) -> dict[str, Any]:
    # mmseg builds a loss, which we do not use, and warns of its defaults.
    loss = {"type": "CrossEntropyLoss", "avg_non_ignore": True}
    return {
        "num_classes": num_classes,
        "out_channels": num_classes,
        "dropout_ratio": dropout,
        "loss_decode": loss,
        "align_corners": False,
    }


def _with_first_weights(head: Any) -> nn.Module:
    """Give the classifier the small weights that mmseg's own runner would give it."""
    nn.init.normal_(head.conv_seg.weight, std=0.01)
    nn.init.zeros_(head.conv_seg.bias)
    return head


@contextmanager
def mmseg_imports() -> Iterator[None]:
    """Surround imports of mmseg, which take seconds and so happen only where something is segmented."""
    with warnings.catch_warnings():
        # An operator of other models' attention, which the installed build of mmcv leaves out.
        warnings.filterwarnings("ignore", "Fail to import ``MultiScaleDeformableAttention``", UserWarning)
        yield
