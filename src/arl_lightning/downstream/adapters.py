"""Foreign weights by name: `--checkpoint NAME:FILE` brings a file of another project to one of our networks.

An adapter is a function from the file's dictionary to weights under timm's names. It says in its docstring whose files
it reads. What images the network expects comes with it: many projects normalise as ImageNet.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from arl_lightning.errors import UserError
from arl_lightning.models.weights import read_checkpoint

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EMBEDDING = "patch_embed.proj.weight"
HEADS = ("head.", "fc_norm.", "attn_pool.", "decoder", "mask_token")  # of a classifier or of pretraining


class Adapter(NamedTuple):
    """How one project's files are read.

    Attributes:
        weights: From the file's dictionary to timm's names.
        mean, std: Of pixels in [0, 1], one value for each channel.
    """

    weights: Callable[[dict[str, Any]], dict[str, Tensor]]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def plain_vit(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """A plain ViT's weights under timm's names, at the top or below `model`, `state_dict` or `teacher`.

    Prefixes `module.`, `backbone.` and `encoder.` go; heads and decoders are left out. A network that was fine-tuned on
    the mean of its tokens has its final norm behind the mean, as `fc_norm`: it becomes `norm`.
    """
    for key in ("model", "state_dict", "teacher"):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    state = {}
    for name, value in checkpoint.items():
        for prefix in ("module.", "backbone.", "encoder."):
            name = str(name).removeprefix(prefix)
        if isinstance(value, Tensor):
            state[name] = value
    if "norm.weight" not in state:
        state = {re.sub(r"^fc_norm\.", "norm.", name): value for name, value in state.items()}
    return {name: value for name, value in state.items() if not name.startswith(HEADS)}


ADAPTERS: dict[str, Adapter] = {"vit": Adapter(plain_vit, IMAGENET_MEAN, IMAGENET_STD)}


def adapted(name: str, path: Path) -> tuple[dict[str, Tensor], Adapter]:
    """Read a file through a named adapter.

    Raises:
        UserError: If there is no such adapter, or the file cannot be read or holds no weights of a vision transformer.
    """
    if name not in ADAPTERS:
        raise UserError(f"checkpoint {name}:{path}: no adapter '{name}'; there are {', '.join(sorted(ADAPTERS))}")
    adapter = ADAPTERS[name]
    weights = adapter.weights(read_checkpoint(path))
    if not weights:
        raise UserError(f"{path}: holds no weights that the adapter '{name}' knows")
    embedding = weights.get(EMBEDDING)
    if embedding is not None and embedding.ndim != 4:
        raise UserError(
            f"{path}: {EMBEDDING} is {tuple(embedding.shape)}, not a convolution's (D, C, patch, patch): of another"
            f" version of '{name}', or of no vision transformer; choose another file"
        )
    return weights, adapter
