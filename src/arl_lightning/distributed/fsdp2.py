"""FSDP2 behind Lightning: weights, gradients and optimizer state sharded over all ranks, or within a node."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from arl_lightning.distributed.collectives import gather_rows
from arl_lightning.distributed.saving import Saving, save_in_background
from arl_lightning.distributed.sharded_checkpoint import Source, open_source, restore_optimizer, restore_weights
from arl_lightning.errors import UserError

REPLICATE, SHARD = "replicate", "shard"  # dimensions of the mesh
SAVE_TIMEOUT = timedelta(hours=1)  # between the first and the last rank that has written its shard


def refuse_spread_groups(nodes: list[int], replicas: int) -> None:
    """See that each group of consecutive ranks, which shards the weights, lies on one node.

    Args:
        nodes: Of each rank.
        replicas: Number of groups, which divides that of ranks.

    Raises:
        UserError: If one spans nodes: its weights would be gathered over the network.
    """
    size = len(nodes) // replicas
    for first in range(0, len(nodes), size):
        spanned = sorted(set(nodes[first : first + size]))
        if len(spanned) > 1:
            raise UserError(
                f"trainer.strategy: hsdp shards within a node, but ranks {first} to {first + size - 1} lie on nodes"
                f" {', '.join(map(str, spanned))}; start as many ranks on each node, one node after the other"
            )


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
        self._save_group: dist.ProcessGroup | None = None
        self._saving: Saving | None = None  # the last one
        self._source: Source | None = None  # of the checkpoint that is being restored

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Every rank reads data of its own, however weights are laid out."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    def setup_environment(self) -> None:
        """Start the process group and lay out the ranks.

        Raises:
            UserError: If replicas do not divide the ranks, or one of them would span nodes.
        """
        if self.world_size % self.replicas:
            raise UserError(f"trainer.strategy: {self.world_size} ranks cannot form {self.replicas} equal groups")
        self._setup_distributed()
        self._device_mesh = self._lay_out_ranks()
        cast(pl.LightningModule, self.lightning_module)._device_mesh = self._device_mesh

    def _lay_out_ranks(self) -> DeviceMesh:
        device = self.root_device.type
        if self.replicas == 1:
            return init_device_mesh(device, (self.world_size,), mesh_dim_names=(SHARD,))
        refuse_spread_groups(gather_rows(self.node_rank), self.replicas)
        shape = (self.replicas, self.world_size // self.replicas)
        return init_device_mesh(device, shape, mesh_dim_names=(REPLICATE, SHARD))

    def model_to_device(self) -> None:
        """Leave offloaded shards in the host's memory: `configure_model` has moved everything else."""
        if not self.cpu_offload:
            super().model_to_device()

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Keep gradients to the rank, unsharded, until a backward pass outside of this context."""
        sharded = [module for module in cast(nn.Module, self.model).modules() if isinstance(module, FSDPModule)]
        for module in sharded:
            module.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for module in sharded:
                module.set_requires_gradient_sync(True, recurse=False)

    # ---------------------------------------------------------------- checkpoints

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Restore the optimizers after the module has had a look at the checkpoint, as the weights."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return weights and buffers, sharded; no copy."""
        return cast(pl.LightningModule, self.lightning_module).state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return an optimizer's state by parameter index, sharded; no copy."""
        return (optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer).state_dict()

    def save_in_background(
        self, checkpoint: Mapping[str, Any], path: Path, on_whole: Callable[[], None] | None = None
    ) -> Saving:
        """Write a folder while training goes on, after the one before is done; to be called by all ranks.

        Args:
            checkpoint: Lightning's.
            path: The folder.
            on_whole: Called on the first rank, in a thread, once the checkpoint is whole.
        """
        if self._save_group is None:
            self._save_group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=SAVE_TIMEOUT))
        if self._saving is not None:
            self._saving.linger()
        self._saving = save_in_background(checkpoint, path, self._save_group, on_whole)
        return self._saving

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a folder and wait for it.

        Raises:
            SaveError: On all ranks, if one could not write.
        """
        self.save_in_background(checkpoint, Path(filepath)).wait()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read all but the tensors, which are read where they belong once the module agrees.

        Args:
            checkpoint_path: A folder of any number of ranks, or a file of DDP or of one process.
            weights_only: Without meaning here, as no code is ever unpickled.
        """
        self._source = open_source(Path(checkpoint_path))
        return dict(self._source.rest)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load weights and buffers in place."""
        restore_weights(cast(Source, self._source), self.lightning_module_state_dict(), strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the optimizers, and let go of the checkpoint."""
        for number, optimizer in enumerate(self.optimizers):
            restore_optimizer(cast(Source, self._source), number, optimizer)
        self._source = None

    def teardown(self) -> None:
        """Let go of the checkpoint also where no optimizers were loaded."""
        self._source = None
        super().teardown()
