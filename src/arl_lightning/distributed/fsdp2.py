"""FSDP2 behind Lightning: weights, gradients and optimizer state sharded over all ranks, or within a node."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule

from arl_lightning.errors import UserError

REPLICATE, SHARD = "replicate", "shard"  # dimensions of the mesh


class FSDP2Strategy(ModelParallelStrategy):
    """Lays out the ranks for `fully_shard`; the module shards its networks in `configure_model`.

    Args:
        replicas: Groups of ranks that hold the whole weights each: 1 shards over all ranks, the number of nodes shards
            within a node and replicates across nodes (HSDP).
        cpu_offload: Keep what is sharded in the host's memory; on GPUs only.
        reshard_after_forward: Free a block's gathered weights between the forward and the backward pass.
        timeout: Of one exchange.
        backend: torch's process group backend; None: nccl on GPUs, gloo on CPUs, both where weights are offloaded.
    """

    def __init__(
        self,
        replicas: int = 1,
        cpu_offload: bool = False,
        reshard_after_forward: bool = True,
        timeout: timedelta = timedelta(seconds=600),
        backend: str | None = None,
    ) -> None:
        if backend is None and cpu_offload:
            backend = "cuda:nccl,cpu:gloo"  # norms of offloaded gradients are summed on the host
        # The sizes are those of Lightning's own mesh, which ours replaces.
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, process_group_backend=backend, timeout=timeout)
        self.replicas = replicas
        self.cpu_offload = cpu_offload
        self.reshard_after_forward = reshard_after_forward

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Every rank reads data of its own, however weights are laid out."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    def setup_environment(self) -> None:
        """Start the process group and lay out the ranks.

        Raises:
            UserError: If replicas do not divide the ranks, or weights are to be offloaded from a CPU.
        """
        if self.cpu_offload and self.root_device.type == "cpu":
            raise UserError("distributed.cpu_offload: only with GPUs; set it to false")
        if self.world_size % self.replicas:
            raise UserError(f"trainer.strategy: {self.world_size} ranks cannot form {self.replicas} equal groups")
        self._setup_distributed()
        self._device_mesh = self._lay_out_ranks()
        cast(pl.LightningModule, self.lightning_module)._device_mesh = self._device_mesh

    def _lay_out_ranks(self) -> DeviceMesh:
        device = self.root_device.type
        if self.replicas == 1:
            return init_device_mesh(device, (self.world_size,), mesh_dim_names=(SHARD,))
        shape = (self.replicas, self.world_size // self.replicas)  # ranks of a node are consecutive
        return init_device_mesh(device, shape, mesh_dim_names=(REPLICATE, SHARD))

    @property
    def _module(self) -> nn.Module:
        return cast(nn.Module, self.model)

    def model_to_device(self) -> None:
        """Move the module, or only what is not offloaded."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        for buffer in self._module.buffers():
            buffer.data = buffer.to(self.root_device)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Keep gradients to the rank, unsharded, until a backward pass outside of this context."""
        sharded = [module for module in self._module.modules() if isinstance(module, FSDPModule)]
        for module in sharded:
            module.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for module in sharded:
                module.set_requires_gradient_sync(True, recurse=False)
