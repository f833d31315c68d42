"""Reads and writes encoders: from a checkpoint of `arl pretrain`, and from safetensors that stand alone."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from arl_lightning.distributed.saving import sync_folder
from arl_lightning.distributed.sharded_checkpoint import WEIGHTS, FolderSource, is_folder, join, read_file
from arl_lightning.errors import UserError
from arl_lightning.models.encoder import AViT, Conditioning
from arl_lightning.models.registry import MODEL_NAMES, PIXEL_MEAN, PIXEL_STD, create_avit

Network = Literal["teacher", "student"]

METADATA_KEY = "arl_encoder"  # of the safetensors header: the `EncoderSpec` as JSON


@dataclass(frozen=True)
class EncoderSpec:
    """What rebuilds an A-ViT without weights, and what it expects of its images.

    Attributes:
        name: A registered A-ViT.
        image_size: Pixels a side that its position embeddings are for.
        in_chans: Image channels.
        conditioning: `acdt`, or `none`.
        kernel: Deformable kernel.
        register_tokens: Tokens beside the class token.
        anatomies: The vocabulary, without `other`.
        mean, std: What is subtracted from pixels in [0, 1], and what then divides them.
    """

    name: str
    image_size: int
    in_chans: int
    conditioning: Conditioning
    kernel: Literal["depthwise", "grouped", "dense"]
    register_tokens: int
    anatomies: tuple[str, ...]
    mean: float = PIXEL_MEAN
    std: float = PIXEL_STD

    def build(self, drop_path: float = 0.0) -> AViT:
        """Build the encoder with random weights.

        Raises:
            UserError: If this version registers no such A-ViT.
        """
        if self.name not in MODEL_NAMES:
            raise UserError(f"encoder '{self.name}': not one of {', '.join(MODEL_NAMES)}")
        return create_avit(
            self.name,
            self.image_size,
            self.in_chans,
            self.conditioning,
            len(self.anatomies),
            self.kernel,
            self.register_tokens,
            drop_path,
        )


def read_checkpoint(path: Path, weights: str | None = "") -> dict[str, Any]:
    """Read a PyTorch checkpoint on the CPU, without unpickling code.

    Args:
        path: A file, mapped into memory; or a folder that sharded ranks wrote, whose optimizer state is left out.
        weights: How the names of the weights start that are read from a folder; None reads none of them.

    Raises:
        UserError: If the checkpoint is missing, not whole, or none.
    """
    if is_folder(path):
        source = FolderSource(path)
        return join({} if weights is None else source.read(f"{WEIGHTS}.{weights}"), source.rest)
    _refuse_folder(path)
    return read_file(path)


def encoder_of_checkpoint(path: Path, network: Network, drop_path: float = 0.0) -> tuple[AViT, EncoderSpec]:
    """Rebuild the teacher's or the student's encoder from a checkpoint of `arl pretrain`.

    Raises:
        UserError: If the file is missing, damaged, or no such checkpoint.
    """
    prefix = f"{network}.encoder."
    checkpoint = read_checkpoint(path, prefix)
    if (described := checkpoint.get("arl_downstream")) is not None:
        task = f" {described['task']}" if isinstance(described, dict) and "task" in described else ""
        raise UserError(f"{path}: already trained on task{task}; give its pretraining checkpoint")
    if "arl" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of `arl pretrain`; name an adapter for others, such as vit:{path}")
    with _other_versions_refused(path):
        recipe, weights = checkpoint["arl"]["recipe"], checkpoint["state_dict"]
        names = ("name", "image_size", "in_chans", "conditioning", "kernel", "register_tokens")
        fields = {**{name: recipe["encoder"][name] for name in names}, **recipe["pixels"]}
        encoder, spec = _built({**fields, "anatomies": recipe["anatomies"]}, drop_path)
        state = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    load_weights(encoder, state, path)
    return encoder, spec


def _built(fields: dict[str, Any], drop_path: float) -> tuple[AViT, EncoderSpec]:
    spec = EncoderSpec(**{**fields, "anatomies": tuple(fields["anatomies"])})
    return spec.build(drop_path), spec


@contextmanager
def _other_versions_refused(path: Path) -> Iterator[None]:
    """Turn what a description with too few, more or other fields raises into a line."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UserError(
            f"{path}: its encoder is not described as this version does, so it is damaged or of another version"
            f" ({reason}); write it again with this one"
        ) from error


def _refuse_folder(path: Path) -> None:
    if not path.is_dir():
        return
    patterns = ("checkpoints/last.ckpt", "last.ckpt", "checkpoints/*.ckpt", "*.ckpt", "*.safetensors")
    found = [file for pattern in patterns for file in sorted(path.glob(pattern))]
    raise UserError(f"{path}: is a folder; " + (f"give its file {found[0]}" if found else "give a checkpoint's file"))


def write_encoder(path: Path, encoder: AViT, spec: EncoderSpec, notes: dict[str, str] | None = None) -> None:
    """Write an encoder with all that rebuilds it, as safetensors.

    Args:
        path: Ends in `.safetensors`; written under another name and renamed.
        encoder: The A-ViT.
        spec: What it was built from.
        notes: Further entries of the header, such as the recipe.

    Raises:
        UserError: If the file cannot be written.
    """
    state = {name: value.detach().contiguous().cpu() for name, value in encoder.state_dict().items()}
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors leave 0600
        save_file(state, temporary, {**(notes or {}), METADATA_KEY: json.dumps(asdict(spec))})
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error})") from error


def read_encoder(path: Path, drop_path: float = 0.0) -> tuple[AViT, EncoderSpec]:
    """Rebuild an encoder that `write_encoder` wrote.

    Raises:
        UserError: If the file is missing, a folder, damaged, or has none of our headers.
    """
    _refuse_folder(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(METADATA_KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); export it again") from error
    if header is None:
        raise UserError(
            f"{path}: has no '{METADATA_KEY}' header; name an adapter for foreign files, such as vit:{path}"
        )
    with _other_versions_refused(path):
        encoder, spec = _built(json.loads(header), drop_path)
    load_weights(encoder, state, path)
    return encoder, spec


def load_weights(network: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load all of a network's weights.

    Raises:
        UserError: If some are missing, are of another shape, or belong to another network.
    """
    own = network.state_dict()
    lacking, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if lacking or foreign:
        said = f"lacks {lacking[0]}" if lacking else f"holds {foreign[0]}, which this network has not"
        raise UserError(
            f"{path}: {said} ({len(lacking)} missing, {len(foreign)} foreign weights); is it this network's?"
        )
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise UserError(f"{path}: {name} is {tuple(state[name].shape)}, this network's {tuple(value.shape)}")
    network.load_state_dict(state)


def resize(encoder: AViT, spec: EncoderSpec, image_size: int) -> EncoderSpec:
    """Interpolate an encoder's position embeddings to another image size, in place.

    Raises:
        UserError: If its patch size does not divide the image.
    """
    if image_size % encoder.patch_size:
        raise UserError(f"image_size {image_size}: not divisible by the patch size {encoder.patch_size}")
    if image_size != spec.image_size:
        encoder.set_input_size(img_size=(image_size, image_size))
    return replace(spec, image_size=image_size)
