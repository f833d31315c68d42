"""Any encoder behind one signature, from any checkpoint.

Legend: B images, C channels, T tokens (prefix first), D embedding channels, h x w the patch grid.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

import arl_lightning.models  # noqa: F401 (registers A-ViT with timm)
from arl_lightning.data.anatomy import ANATOMIES, AnatomyVocabulary
from arl_lightning.distributed.sharded_checkpoint import META, SHARDS
from arl_lightning.downstream.adapters import EMBEDDING, adapted
from arl_lightning.downstream.options import Encoder, Pooling
from arl_lightning.downstream.timm_models import create
from arl_lightning.errors import UserError
from arl_lightning.models.encoder import AViT
from arl_lightning.models.registry import PIXEL_MEAN, PIXEL_STD
from arl_lightning.models.weights import EncoderSpec, encoder_of_checkpoint, load_weights, read_encoder, resize

NONE = "none"
PIXELS = "pixels"
TIMM = "timm"
PIXELS_SIZE = 128  # a side, where the recipe gives none


@dataclass(frozen=True)
class Origin:
    """Where an encoder's weights came from, for the record of a run.

    Attributes:
        checkpoint: What the user named.
        sha256: Of the file's bytes; None where there is no file.
        model: The network's name.
    """

    checkpoint: str
    sha256: str | None
    model: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class Backbone(nn.Module):
    """A vision transformer, conditioned on anatomies or not, with the pixels it expects.

    Args:
        network: A timm vision transformer without a classifier.
        mean: Subtracted from pixels in [0, 1], one value for each channel.
        std: Divides them afterwards.
        anatomies: The vocabulary of an A-ViT, without `other`.
        construction: Plain values from which `rebuild` makes the same network.

    Attributes:
        embed_dim: D.
        depth: Number of blocks.
        in_chans: C.
        patch_size: Pixels a side of a patch.
        num_prefix_tokens: Class and register tokens.
    """

    def __init__(
        self,
        network: VisionTransformer,
        mean: Sequence[float],
        std: Sequence[float],
        anatomies: Sequence[str],
        construction: dict[str, Any],
    ) -> None:
        super().__init__()
        self.network = network
        self.construction = construction
        self.mean, self.std = tuple(mean), tuple(std)
        self.vocabulary = AnatomyVocabulary(anatomies)
        self.embed_dim = int(network.embed_dim)
        self.depth = len(network.blocks)
        self.in_chans = int(cast(nn.Conv2d, network.patch_embed.proj).in_channels)
        self.patch_size = int(network.patch_embed.patch_size[0])
        self.num_prefix_tokens = int(network.num_prefix_tokens)

    @property
    def is_conditioned(self) -> bool:
        """Whether anatomies reach the blocks."""
        return isinstance(self.network, AViT) and self.network.conditioning != "none"

    def normalize(self, image: Tensor) -> Tensor:
        """Bring (B, C, H, W) uint8 to the floats that the network takes."""
        dtype = self.network.patch_embed.proj.weight.dtype
        shape = (1, self.in_chans, 1, 1)
        mean = torch.tensor(self.mean, device=image.device, dtype=dtype).view(shape)
        std = torch.tensor(self.std, device=image.device, dtype=dtype).view(shape)
        return (image.to(dtype) / 255 - mean) / std

    def forward(self, image: Tensor, anatomy: Tensor | None = None) -> Tensor:
        """Encode normalised images (B, C, H, W) to (B, T, D) normalised tokens."""
        if isinstance(self.network, AViT):
            return self.network.forward_features(image, anatomy)
        return self.network.forward_features(image)

    def pooled(self, image: Tensor, anatomy: Tensor | None, pooling: Pooling) -> Tensor:
        """Return one feature vector an image, (B, D): the mean of the patch tokens, or the class token."""
        tokens = self(image, anatomy)
        return tokens[:, 0] if pooling == "cls" else tokens[:, self.num_prefix_tokens :].mean(dim=1)

    def intermediates(self, image: Tensor, indices: Sequence[int], anatomy: Tensor | None = None) -> list[Tensor]:
        """Return the maps (B, D, h, w) behind some blocks, without the final norm."""
        known: dict[str, Any] = {"anatomy": anatomy} if isinstance(self.network, AViT) else {}
        found = self.network.forward_intermediates(image, indices=list(indices), intermediates_only=True, **known)
        return cast(list[Tensor], found)


class PixelBackbone(Backbone):
    """No network: an image's features are its pixels, the baseline that any encoder has to beat.

    Args:
        image_size: Pixels a side, H = W.
        in_chans: C.
    """

    def __init__(self, image_size: int, in_chans: int) -> None:
        nn.Module.__init__(self)
        self.mean, self.std = (0.0,) * in_chans, (1.0,) * in_chans
        self.vocabulary = AnatomyVocabulary(ANATOMIES)
        self.embed_dim = in_chans * image_size**2
        self.in_chans = in_chans
        self.construction = {"kind": PIXELS, "image_size": image_size, "in_chans": in_chans}

    @property
    def is_conditioned(self) -> bool:
        """Pixels are not."""
        return False

    def normalize(self, image: Tensor) -> Tensor:
        """Bring (B, C, H, W) uint8 to [0, 1]."""
        return image / 255

    def pooled(self, image: Tensor, anatomy: Tensor | None, pooling: Pooling) -> Tensor:
        """Return (B, C * H * W)."""
        return image.flatten(1)


def open_backbone(checkpoint: str, options: Encoder, image_size: int | None) -> tuple[Backbone, Origin, int]:
    """Build an encoder and load its weights.

    Args:
        checkpoint: A `.ckpt` of `arl pretrain`, an exported `.safetensors`, `timm:NAME`, `ADAPTER:FILE`, `none` for
            random weights, or `pixels`.
        options: What the checkpoint does not say.
        image_size: Pixels a side; the checkpoint's own where None.

    Returns:
        The encoder, where it came from, and its image size.

    Raises:
        UserError: If the checkpoint cannot be read or does not fit.
    """
    kind, _, rest = checkpoint.partition(":")
    if checkpoint == PIXELS:
        size = image_size or PIXELS_SIZE
        return PixelBackbone(size, options.in_chans or 1), Origin(checkpoint, None, PIXELS), size
    if checkpoint == NONE:
        backbone, size = _named(options, pretrained=False, image_size=image_size)
        origin = Origin(checkpoint, None, options.name)
    elif kind == TIMM and rest:
        backbone, size = _named(options, pretrained=True, image_size=image_size, name=rest)
        origin = Origin(checkpoint, None, rest)
    elif rest and not Path(checkpoint).exists():
        backbone, size = _foreign(kind, Path(rest), options, image_size)
        origin = Origin(checkpoint, file_sha256(Path(rest)), options.name)
    else:
        backbone, size, name = _own(Path(checkpoint), options, image_size)
        origin = Origin(checkpoint, file_sha256(Path(checkpoint)), name)
    if options.pooling == "cls" and not backbone.network.has_class_token:
        raise UserError(f"encoder.pooling cls: {origin.model} has no class token; use gap")
    backbone.network.set_grad_checkpointing(options.checkpoint_gradients)
    return backbone, origin, size


def _own(path: Path, options: Encoder, image_size: int | None) -> tuple[Backbone, int, str]:
    if path.suffix == ".safetensors":
        encoder, spec = read_encoder(path, options.drop_path)
    else:
        encoder, spec = encoder_of_checkpoint(path, options.weights, options.drop_path)
    _refuse_other_channels(options, spec.in_chans, path)
    spec = resize(encoder, spec, image_size or spec.image_size)
    return of_spec(encoder, spec), spec.image_size, spec.name


def of_spec(encoder: AViT, spec: EncoderSpec) -> Backbone:
    """Wrap an A-ViT with what its specification says of pixels and anatomies."""
    construction = {"kind": "avit", **_plain(asdict(spec))}
    mean, std = [spec.mean] * spec.in_chans, [spec.std] * spec.in_chans
    return Backbone(encoder, mean, std, spec.anatomies, construction)


def rebuild(construction: dict[str, Any]) -> Backbone:
    """Build the network that a backbone's `construction` describes, with random weights."""
    kind = construction["kind"]
    fields = {name: value for name, value in construction.items() if name != "kind"}
    if kind == PIXELS:
        return PixelBackbone(**fields)
    if kind == "avit":
        spec = EncoderSpec(**{**fields, "anatomies": tuple(fields["anatomies"])})
        return of_spec(spec.build(), spec)
    options = Encoder(name=fields["name"], in_chans=fields["in_chans"], drop_path=0.0)
    network = create(options.name, False, options, fields["image_size"])
    return Backbone(network, fields["mean"], fields["std"], ANATOMIES, construction)


def _of_timm(
    network: VisionTransformer, name: str, mean: Sequence[float], std: Sequence[float]
) -> tuple[Backbone, int]:
    size = int(network.patch_embed.img_size[0])
    in_chans = int(cast(nn.Conv2d, network.patch_embed.proj).in_channels)
    mean, std = _for_channels(mean, in_chans), _for_channels(std, in_chans)
    construction = {
        "kind": TIMM,
        "name": name,
        "image_size": size,
        "in_chans": in_chans,
        "mean": mean,
        "std": std,
    }
    return Backbone(network, mean, std, ANATOMIES, construction), size


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _named(options: Encoder, pretrained: bool, image_size: int | None, name: str | None = None) -> tuple[Backbone, int]:
    """Build a timm model by name; its own weights come from the model hub."""
    name = name or options.name
    network = create(name, pretrained, options, image_size)
    if not pretrained:
        return _of_timm(network, name, [PIXEL_MEAN], [PIXEL_STD])
    stated = cast(dict[str, Any], network.pretrained_cfg)
    return _of_timm(network, name, stated["mean"], stated["std"])


def _for_channels(values: Sequence[float], in_chans: int) -> list[float]:
    return list(values) if len(values) == in_chans else [sum(values) / len(values)] * in_chans


def _foreign(name: str, path: Path, options: Encoder, image_size: int | None) -> tuple[Backbone, int]:
    weights, adapter = adapted(name, path)
    embedding = weights.get(EMBEDDING)
    in_chans = len(adapter.mean) if embedding is None else int(embedding.shape[1])
    _refuse_other_channels(options, in_chans, path)
    network = create(options.name, False, replace(options, in_chans=in_chans), None)
    load_weights(network, weights, path)
    size = image_size or int(network.patch_embed.img_size[0])
    network.set_input_size(img_size=(size, size))
    return _of_timm(network, options.name, adapter.mean, adapter.std)


def _refuse_other_channels(options: Encoder, in_chans: int, path: Path) -> None:
    if options.in_chans not in (None, in_chans):
        raise UserError(f"encoder.in_chans {options.in_chans}: {path} is of {in_chans}; leave the key out")


def file_sha256(path: Path) -> str:
    """Hash a file's bytes; of a folder that sharded ranks wrote, the names and hashes of what they wrote."""
    if path.is_dir():
        files = sorted([path / META, path / SHARDS, *path.glob("*.distcp")])  # not .DS_Store, or .nfs* of a file in use
        parts = [f"{file.name} {file_sha256(file)}\n" for file in files]
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
