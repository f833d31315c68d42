"""Encoders of four small blocks for 32 x 32 images, 4 x 4 patches."""

from typing import Any

import timm
from timm.models import VisionTransformer

from arl_lightning.data.anatomy import ANATOMIES
from arl_lightning.downstream.encoders import Backbone

IMAGE_SIZE, PATCH_SIZE = 32, 8
SIZE = {"embed_dim": 24, "depth": 4, "num_heads": 2}


def tiny_avit(**changes: Any) -> Backbone:
    """An A-ViT; changes are timm's arguments."""
    arguments = {"img_size": IMAGE_SIZE, "in_chans": 1, "num_classes": 0, **SIZE, **changes}
    return Backbone(timm.create_model("avit_tiny_patch8_224", **arguments), (0.2,), (0.2,), ANATOMIES, {})


def tiny_vit() -> Backbone:
    """timm's own vision transformer."""
    network = VisionTransformer(img_size=IMAGE_SIZE, patch_size=PATCH_SIZE, in_chans=1, num_classes=0, **SIZE)
    return Backbone(network, (0.5,), (0.5,), ANATOMIES, {})
