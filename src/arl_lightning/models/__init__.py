"""A-ViT, the decoder, the discriminator and the self-distillation head; importing this registers A-ViT with timm."""

from arl_lightning.models.registry import MODEL_NAMES

__all__ = ["MODEL_NAMES"]
