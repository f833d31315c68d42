"""Networks from a recipe's options."""

import os
import shutil
from functools import partial
from itertools import chain

import torch
from torch import nn

from arl_lightning.distributed.fsdp2 import FSDP2Strategy
from arl_lightning.distributed.sharding import shard_network
from arl_lightning.errors import UserError
from arl_lightning.models.decoder import Decoder
from arl_lightning.models.encoder import AViT
from arl_lightning.models.heads import DINOHead
from arl_lightning.models.networks import Student, Teacher
from arl_lightning.models.registry import MODEL_NAMES, create_avit
from arl_lightning.objectives.masking import num_hidden_patches
from arl_lightning.pretraining import options


def build_encoder(encoder: options.Encoder, num_anatomies: int) -> AViT:
    """Build the encoder without a classifier.

    Raises:
        UserError: If the name is unknown, or the patch size does not divide the image.
    """
    if encoder.name not in MODEL_NAMES:
        raise UserError(f"model.encoder.name: '{encoder.name}' is not one of {', '.join(MODEL_NAMES)}")
    network = create_avit(
        encoder.name,
        encoder.image_size,
        encoder.in_chans,
        encoder.conditioning,
        num_anatomies,
        encoder.kernel,
        encoder.register_tokens,
        encoder.drop_path,
    )
    patch_size = network.patch_size
    if encoder.image_size % patch_size:
        raise UserError(
            f"model.encoder.image_size: {encoder.image_size} is not divisible by the patch size {patch_size}"
        )
    network.set_grad_checkpointing(encoder.checkpoint_gradients)
    return network


def build_student(
    encoder: AViT,
    decoder: options.Decoder | None,
    distillation: options.SelfDistillation,
) -> Student:
    """Put head and decoder on an encoder; None for a decoder leaves it out."""
    dim = encoder.embed_dim
    head = decoding = None
    if distillation.enabled:
        head = DINOHead(dim, distillation.num_prototypes, distillation.hidden_dim, distillation.bottleneck_dim)
    if decoder is not None:
        pixels = encoder.patch_size**2 * encoder.in_chans
        decoding = Decoder(dim, encoder.grid_size, pixels, decoder.depth, decoder.dim, decoder.num_heads)
    return Student(encoder, head, decoding)


def transformer_blocks(network: Student | Teacher) -> list[nn.Module]:
    """Return the blocks of encoder and decoder."""
    decoder = network.decoder if isinstance(network, Student) else None
    return list(chain(network.encoder.blocks, [] if decoder is None else decoder.blocks))


def compile_blocks(network: Student | Teacher) -> None:
    """Compile what each block does, in place; all blocks share their graphs, and names of weights stay.

    There is a graph for each number of tokens in training, of which a recipe has few: of masked, whole and local views.
    Hooks on a block, and so the gathering of sharded weights, run around the compiled part. DistributedDataParallel's
    graphs are not split at its buckets: blocks are short enough for gradients to travel while the next is computed.

    Raises:
        UserError: If there is no C++ compiler.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise UserError("model.compile: found no C++ compiler; install g++, or set this to false")
    torch._dynamo.config.optimize_ddp = False
    for block in transformer_blocks(network):
        block.forward = torch.compile(block.forward, dynamic=False)


def shard_networks(
    student: Student,
    teacher: Teacher,
    discriminator: nn.Module | None,
    strategy: FSDP2Strategy,
    half: torch.dtype | None,
) -> None:
    """Shard each network as one root, block by block.

    Args:
        student: Its weights are those of all ranks already, as are the others'.
        teacher: Of the student.
        discriminator: None where it is off.
        strategy: Says how ranks are laid out.
        half: Type in which blocks are gathered; None to gather them as they are.
    """
    share = partial(shard_network, mesh=strategy.device_mesh, cpu_offload=strategy.cpu_offload, half=half)
    for network in (student, teacher):
        share(
            network,
            transformer_blocks(network),
            reshard_after_forward=strategy.reshard_after_forward,
            block_methods=("forward_passes",),
        )
    if discriminator is not None:
        share(discriminator, ())


def check_masking(masking: options.Masking, num_patches: int) -> None:
    """See that a mask leaves some patches visible and hides some.

    Raises:
        UserError: If it does not.
    """
    try:
        num_hidden_patches(num_patches, masking.ratio)
    except ValueError as error:
        raise UserError(f"model.masking.ratio: {error}") from error
