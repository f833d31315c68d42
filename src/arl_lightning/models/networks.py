"""The two networks of self-distillation: the student, trained, and the teacher, which follows it.

Legend: B images, G global views, L local views, S = G + L student views, V visible patches, D channels, K prototypes.
Images of several views are stacked view by view: row `g * B + b` is view g of image b.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arl_lightning.models.decoder import Decoded, Decoder
from arl_lightning.models.encoder import AViT, Pass
from arl_lightning.models.heads import DINOHead


class StudentOutput(NamedTuple):
    """What the student makes of a batch.

    Attributes:
        cls_tokens: (G * B, D) of the global views.
        cls_logits: (S * B, K), global views first; None without a head.
        patch_logits: (G * B, V, K) of visible patches; None unless asked for.
        decoded: Reconstruction of the masked global views; None without a decoder.
    """

    cls_tokens: Tensor
    cls_logits: Tensor | None
    patch_logits: Tensor | None
    decoded: Decoded | None


class TeacherOutput(NamedTuple):
    """What the teacher makes of full global views.

    Attributes:
        cls_tokens: (G * B, D).
        cls_logits: (G * B, K).
        patch_logits: (G * B, V, K) at the positions asked for; None where none were.
    """

    cls_tokens: Tensor
    cls_logits: Tensor
    patch_logits: Tensor | None


class Student(nn.Module):
    """Encoder, self-distillation head and decoder, trained together.

    Args:
        encoder: A-ViT without a classifier.
        head: None where self-distillation is off.
        decoder: None where masked image modelling is off.
    """

    def __init__(self, encoder: AViT, head: DINOHead | None, decoder: Decoder | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.decoder = decoder

    def forward(
        self,
        global_images: Tensor,
        local_images: Tensor | None,
        anatomy: Tensor,
        mask: Tensor | None,
        distil_full_view: bool = False,
        distil_patches: bool = False,
        num_visible: int | None = None,
    ) -> StudentOutput:
        """Encode masked global views and whole local views, one pass each, side by side.

        Args:
            global_images: (G * B, C, H, W).
            local_images: (L * B, C, h, w), or None.
            anatomy: (B,) vocabulary indices.
            mask: (G * B, N) bool, True where hidden; None to show everything.
            distil_full_view: Take the global views' class tokens from a further, unmasked pass.
            distil_patches: Return patch logits too.
            num_visible: V, where it is known; None to count.
        """
        passes = [_pass(global_images, anatomy, mask, num_visible)]
        if distil_full_view and mask is not None:
            passes.append(_pass(global_images, anatomy, None))
        num_global_passes = len(passes)
        if self.head is not None and local_images is not None:
            passes.append(_pass(local_images, anatomy, None))
        tokens = self.encoder.forward_passes(passes)
        patch_tokens = tokens[0][:, self.encoder.num_prefix_tokens :]
        decoded = self.decoder(patch_tokens, mask, num_visible) if self.decoder is not None else None
        cls_tokens, *local = (each[:, 0] for each in tokens[num_global_passes - 1 :])
        if self.head is None:
            return StudentOutput(cls_tokens, None, None, decoded)
        patch_logits = self.head(patch_tokens) if distil_patches else None
        return StudentOutput(cls_tokens, self.head(torch.cat([cls_tokens, *local])), patch_logits, decoded)


def _pass(images: Tensor, anatomy: Tensor, mask: Tensor | None, num_visible: int | None = None) -> Pass:
    return Pass(images, anatomy.repeat(len(images) // len(anatomy)), mask, num_visible)


class Teacher(nn.Module):
    """Exponential moving average of the student's encoder and head; it never has a gradient.

    Args:
        student: The network to start from and to follow.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(student.encoder)
        self.head = copy.deepcopy(student.head)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode: targets are not drawn through stochastic depth."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, global_images: Tensor, anatomy: Tensor, positions: Tensor | None = None) -> TeacherOutput:
        """Encode full global views.

        Args:
            global_images: (G * B, C, H, W).
            anatomy: (B,) vocabulary indices.
            positions: (G * B, V) patches whose logits are wanted too; None for none.

        Raises:
            ValueError: If there is no head: self-distillation is off.
        """
        if self.head is None:
            raise ValueError("the teacher has no head: self-distillation is off")
        tokens = self.encoder.forward_features(global_images, anatomy.repeat(len(global_images) // len(anatomy)))
        cls_tokens, patch_logits = tokens[:, 0], None
        if positions is not None:
            patch_tokens = tokens[:, self.encoder.num_prefix_tokens :]
            patch_logits = self.head(patch_tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[-1])))
        return TeacherOutput(cls_tokens, self.head(cls_tokens), patch_logits)

    @torch.no_grad()
    def follow(self, student: Student, momentum: float) -> None:
        """Move the weights towards the student's: `teacher = momentum * teacher + (1 - momentum) * student`."""
        followed = [*student.encoder.parameters()]
        if student.head is not None:
            followed += student.head.parameters()
        torch._foreach_lerp_(list(self.parameters()), [parameter.detach() for parameter in followed], 1 - momentum)
