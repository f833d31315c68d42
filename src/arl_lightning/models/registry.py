"""A-ViT sizes, registered with timm: `timm.create_model("avit_base_patch16_224", in_chans=1)`.

Depth, width and heads are the standard ViT's ("the same depth, hidden dimension, and number of attention heads as
baselines", paper section 4.2). Any of them takes `img_size` and the arguments of `AViT`.
"""

from collections.abc import Callable
from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from arl_lightning.models.acdt import Kernel
from arl_lightning.models.encoder import AViT, Conditioning

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
}
PATCH_SIZES = (8, 14, 16)

# Of pixels in [0, 1], over seven public ultrasound sets weighed alike (docs/real_run.md).
PIXEL_MEAN, PIXEL_STD = 0.25, 0.23


def _name(size: str, patch_size: int) -> str:
    return f"avit_{size}_patch{patch_size}_224"


def _default_cfg() -> dict[str, Any]:
    return {
        "url": "",  # no weights of the paper have been released
        "num_classes": 1000,
        "input_size": (1, 224, 224),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "fixed_input_size": False,
        "mean": (PIXEL_MEAN,),
        "std": (PIXEL_STD,),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs({_name(size, patch): _default_cfg() for size in SIZES for patch in PATCH_SIZES})


def _register(size: str, patch_size: int) -> str:
    """Define, register and export one entry point; timm finds its configuration in this module's `default_cfgs`."""
    name = _name(size, patch_size)

    def create(pretrained: bool = False, **kwargs: Any) -> AViT:
        arguments = {"patch_size": patch_size, "in_chans": 1, **SIZES[size], **kwargs}
        feature_cfg = {"out_indices": 3, "feature_cls": "getter"}
        return build_model_with_cfg(AViT, name, pretrained, feature_cfg=feature_cfg, **arguments)

    create.__name__ = name
    create.__module__ = __name__
    create.__doc__ = f"A-ViT {size} with {patch_size} x {patch_size} patches."
    entrypoint: Callable[..., AViT] = create
    globals()[name] = register_model(entrypoint)
    return name


MODEL_NAMES = tuple(_register(size, patch_size) for size in SIZES for patch_size in PATCH_SIZES)


def create_avit(
    name: str,
    image_size: int,
    in_chans: int,
    conditioning: Conditioning,
    num_anatomies: int,
    kernel: Kernel,
    register_tokens: int,
    drop_path: float,
) -> AViT:
    """Build a registered A-ViT without a classifier."""
    network: AViT = timm.create_model(  # type: ignore[assignment]
        name,
        img_size=image_size,
        in_chans=in_chans,
        num_classes=0,
        conditioning=conditioning,
        num_anatomies=num_anatomies,
        kernel=kernel,
        reg_tokens=register_tokens,
        drop_path_rate=drop_path,
    )
    return network
