"""Sharding of one network over the ranks, block by block (FSDP2)."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)


def broadcast_weights(module: nn.Module) -> None:
    """Give every rank the first rank's weights and buffers, as DDP does: ranks may have drawn others."""
    for tensor in [*module.parameters(), *module.buffers()]:
        dist.broadcast(tensor.detach(), src=0)


def shard_network(
    network: nn.Module,
    blocks: Iterable[nn.Module],
    mesh: DeviceMesh,
    *,
    half: torch.dtype | None = None,
    cpu_offload: bool = False,
    reshard_after_forward: bool = True,
    block_methods: tuple[str, ...] = (),
) -> None:
    """Shard a network in place: each block is a unit of its own, everything else is one, gathered at the root's call.

    Args:
        network: Called through `forward` only.
        blocks: Modules below it.
        mesh: ("shard") or ("replicate", "shard").
        half: Type in which blocks are gathered for mixed precision. What the root holds (embeddings, norms, heads)
            stays as it is, so that the tokens that run through the blocks are not rounded. A rank adds up a block's
            gradients of one batch's passes in this type; batches and ranks are summed in float32. None to gather
            weights as they are.
        cpu_offload: Keep shards in the host's memory.
        reshard_after_forward: Free a block's gathered weights after its forward pass. A network without gradients is
            always freed, root and all: nothing else would, and the next forward pass would use old weights.
        block_methods: Methods by which blocks are called beside `forward`.
    """
    trained = any(parameter.requires_grad for parameter in network.parameters())
    offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()
    reduce_dtype = None if half is None else torch.float32
    # Autocast decides what is computed in which type.
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=reduce_dtype, cast_forward_inputs=False)
    for block in blocks:
        reshard = reshard_after_forward or not trained
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy, offload_policy=offload)
        for name in block_methods:
            if hasattr(block, name):
                register_fsdp_forward_method(block, name)
    fully_shard(
        network,
        mesh=mesh,
        reshard_after_forward=None if trained else True,  # torch keeps a trained root, which backward needs at once
        mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False),
        offload_policy=offload,
    )
