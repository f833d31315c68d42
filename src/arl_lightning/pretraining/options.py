"""The recipe keys below `model:`, one group a concern. Defaults are ours where the paper gives none (docs/method.md).

Every `share` is a fraction of all training steps, so that a recipe's length can change without its schedules.
"""

from dataclasses import dataclass
from typing import Literal

from arl_lightning.models.acdt import Kernel
from arl_lightning.models.encoder import Conditioning
from arl_lightning.models.registry import PIXEL_MEAN, PIXEL_STD
from arl_lightning.objectives.adversarial import AdversarialLoss


@dataclass(frozen=True)
class Encoder:
    """The anatomy-aware vision transformer.

    Args:
        name: A registered A-ViT, such as avit_base_patch16_224.
        image_size: Pixels a side of a global view; the patch size divides it.
        in_chans: Image channels, 1 (grey) or 3.
        conditioning: acdt (the paper's), or none for a plain ViT.
        kernel: Deformable kernel, depthwise, grouped or dense.
        register_tokens: Number of register tokens beside the class token.
        drop_path: Stochastic depth rate of the last block.
        checkpoint_gradients: Recompute activations in the backward pass to save memory.
    """

    name: str = "avit_base_patch16_224"
    image_size: int = 224
    in_chans: int = 1
    conditioning: Conditioning = "acdt"
    kernel: Kernel = "depthwise"
    register_tokens: int = 0
    drop_path: float = 0.0
    checkpoint_gradients: bool = False


@dataclass(frozen=True)
class Decoder:
    """The masked-image decoder.

    Args:
        depth: Transformer blocks.
        dim: Channels.
        num_heads: Attention heads.
    """

    depth: int = 8
    dim: int = 512
    num_heads: int = 16


@dataclass(frozen=True)
class Pixels:
    """What the network takes for zero and one.

    Args:
        mean: Subtracted from pixels in [0, 1].
        std: Divides them afterwards.
    """

    mean: float = PIXEL_MEAN
    std: float = PIXEL_STD


@dataclass(frozen=True)
class Masking:
    """Which patches the student does not see.

    Args:
        kind: random, or block for rectangles.
        ratio: Hidden fraction.
    """

    kind: Literal["random", "block"] = "random"
    ratio: float = 0.75


@dataclass(frozen=True)
class Reconstruction:
    """Masked image modelling, Eq. 3.

    Args:
        enabled: Off leaves the decoder and the adversarial loss out as well.
        norm_pix_loss: Predict every patch normalised to zero mean and unit variance.
    """

    enabled: bool = True
    norm_pix_loss: bool = False


@dataclass(frozen=True)
class Adversarial:
    """The adversarial loss and its weight, Eq. 4 and 6.

    Args:
        enabled: Off leaves the discriminator out.
        loss: bce (the paper's) or hinge.
        weighting: adaptive (Eq. 6) or constant.
        weight: The constant weight, or a factor on the adaptive one.
        start_share: Share of the run before the discriminator begins.
        update_every: The discriminator learns at every k-th step.
        width: Channels of its first convolution.
    """

    enabled: bool = True
    loss: AdversarialLoss = "bce"
    weighting: Literal["adaptive", "constant"] = "adaptive"
    weight: float = 1.0
    start_share: float = 0.25
    update_every: int = 1
    width: int = 64


@dataclass(frozen=True)
class SelfDistillation:
    """Self-distillation across views, Eq. 5.

    Args:
        enabled: Off leaves the head out; the teacher still follows the student.
        student_view: masked (one pass feeds both objectives), or full for a further unmasked pass.
        num_prototypes: Outputs of the head, the N of Eq. 5.
        hidden_dim: Channels of the head's hidden layers.
        bottleneck_dim: Channels in which prototypes are compared.
        targets: Keep the teacher from collapsing by centering or sinkhorn.
        student_temperature: Softmax temperature of the student.
        teacher_temperature: Final softmax temperature of the teacher.
        teacher_temperature_start: Its first value.
        teacher_temperature_share: Share of the run over which it rises.
        center_momentum: What stays of the center at a step.
        patch_weight: Weight of the patch-token loss; 0 leaves it out.
        koleo_weight: Weight of the KoLeo regulariser; 0 leaves it out.
        freeze_prototypes_share: Share of the run in which the last layer stays fixed.
    """

    enabled: bool = True
    student_view: Literal["masked", "full"] = "masked"
    num_prototypes: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    targets: Literal["centering", "sinkhorn"] = "centering"
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    teacher_temperature_start: float = 0.04
    teacher_temperature_share: float = 0.3
    center_momentum: float = 0.9
    patch_weight: float = 0.0
    koleo_weight: float = 0.0
    freeze_prototypes_share: float = 0.01


@dataclass(frozen=True)
class Optimization:
    """AdamW over the student and the discriminator, with their schedules.

    Args:
        base_lr: Student's peak learning rate for a global batch of 256 images.
        discriminator_base_lr: Discriminator's, likewise.
        warmup_share: Share of the run over which both rise; a discriminator that starts later misses it.
        min_lr_ratio: Final learning rate over the peak.
        betas: AdamW's for the student.
        discriminator_betas: AdamW's for the discriminator.
        weight_decay: First weight decay of both networks' matrices.
        weight_decay_end: Last one, reached along a cosine.
        clip: Largest gradient norm, of the student and of the discriminator each.
        accumulate_batches: Batches of the loader that make one step.
        teacher_momentum: First momentum of the teacher; it ends at 1.
    """

    base_lr: float = 1.5e-4
    discriminator_base_lr: float = 1.5e-4
    warmup_share: float = 0.05
    min_lr_ratio: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    discriminator_betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = 0.05
    weight_decay_end: float = 0.05
    clip: float = 3.0
    accumulate_batches: int = 1
    teacher_momentum: float = 0.996
