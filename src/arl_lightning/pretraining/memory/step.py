"""The memory of one training step on one rank, from the step itself: run with tensors that have no values.

Networks, losses, autograd, FSDP2 and AdamW are those of a real run; only the values are missing, and the other ranks.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter
from torch.testing._internal.distributed.fake_pg import FakeStore  # registers "fake"

from arl_lightning.data.batch import PretrainingBatch
from arl_lightning.distributed.fsdp2 import REPLICATE, SHARD
from arl_lightning.distributed.options import Distributed
from arl_lightning.distributed.strategies import DDP, FSDP2, HSDP, build_strategy
from arl_lightning.models import sampling
from arl_lightning.objectives.masking import num_hidden_patches
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.memory.record import ACTIVATIONS, GATHERED, HALF_WEIGHTS, Recorder

SINGLE = "auto"
WEIGHTS, GRADIENTS, ADAMW, TEACHER = "weights", "gradients", "AdamW", "teacher"
SCATTERED = "scattered"
KINDS = (WEIGHTS, GRADIENTS, ADAMW, TEACHER, HALF_WEIGHTS, GATHERED, SCATTERED, ACTIVATIONS)
NUM_STEPS = 1000  # of the run whose middle is looked at: everything has begun, nothing is frozen


@dataclass(frozen=True)
class Layout:
    """How ranks hold the weights.

    Attributes:
        strategy: ddp, fsdp2, hsdp, or auto for one process.
        ranks: All of them.
        ranks_per_node: hsdp shards among these.
    """

    strategy: str = SINGLE
    ranks: int = 1
    ranks_per_node: int = 1

    @property
    def replicas(self) -> int:
        """Groups of ranks that hold all weights between them."""
        return max(1, self.ranks // self.ranks_per_node) if self.strategy == HSDP else 1


@dataclass(frozen=True)
class Images:
    """What a rank gets for a step.

    Attributes:
        batch_size: Images.
        num_global_views: Global views of each.
        num_local_views: Local views of each.
        local_size: Pixels a side of a local view.
    """

    batch_size: int
    num_global_views: int = 2
    num_local_views: int = 8
    local_size: int = 96


def step_memory(
    arguments: dict[str, Any], images: Images, layout: Layout, precision: str = "bf16-mixed", on_gpu: bool = True
) -> dict[str, int]:
    """Return the bytes at the peak of a step, after the first ones, on one rank by kind.

    Args:
        arguments: Those of `ARL`.
        images: Of a batch.
        layout: Ranks and strategy.
        precision: 32-true or bf16-mixed.
        on_gpu: Follow what only GPUs do: tables of deformable sampling built at once, layer norms kept in float32 by
            autocast, blocks gathered in bfloat16, AdamW over all weights at once.
    """
    with torch.device("meta"):
        module = _Step(**{**arguments, "batch_size": images.batch_size})
        module.configure_model()
    recorder = Recorder(truth=True)  # every step is finite
    with ExitStack() as stack:
        strategy = stack.enter_context(_ranks(layout, on_gpu))
        if on_gpu:
            stack.enter_context(_as_on_a_gpu())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(recorder)
        module.prepare(recorder, strategy, layout, precision)
        module.make_moments(recorder, on_gpu)
        batch = _batch(images, module)
        recorder.forget_peak()
        module.step(batch, precision == "bf16-mixed")
    gc.collect()
    return {kind: recorder.peak[kind] for kind in KINDS}


class _Step(ARL):
    """The module without Lightning's loops around it."""

    optimizer: torch.optim.Optimizer

    def prepare(self, recorder: Recorder, strategy: Any, layout: Layout, precision: str) -> None:
        """Lay the networks out as a run does."""
        for network in self.modules():
            _move_from_meta(network)
        self._device = torch.device("cpu")
        self._trainer = cast(
            Any,
            SimpleNamespace(
                world_size=layout.ranks,
                strategy=strategy,
                precision=precision,
                global_step=NUM_STEPS // 2,
                max_steps=NUM_STEPS,
            ),
        )
        if strategy is not None:
            strategy.model = self
        self.configure_model()
        num_patches = self.grid_size[0] * self.grid_size[1]
        recorder.whole_number = num_patches - num_hidden_patches(num_patches, self.masking.ratio) if self.masks else 0
        self.optimizer = self.configure_optimizers()
        if strategy is not None:
            self._name_exchanges(recorder)
        else:
            self._name_gradients(recorder, in_buckets=layout.strategy == DDP)

    def step(self, batch: PretrainingBatch, half: bool) -> None:
        """Accumulate and update."""
        for index in range(self.optimization.accumulate_batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                self.training_step(batch, index)

    def make_moments(self, recorder: Recorder, on_gpu: bool) -> None:
        """Take a first step of AdamW, and tell the recorder which tensors stay from step to step."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        recorder.mark(trained, WEIGHTS)
        recorder.mark(self.teacher.parameters(), TEACHER)
        for group in self.optimizer.param_groups:
            group["foreach"] = on_gpu
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        moments = [moment for state in self.optimizer.state.values() for moment in state.values()]
        recorder.mark((moment for moment in moments if isinstance(moment, Tensor)), ADAMW)

    def _name_gradients(self, recorder: Recorder, in_buckets: bool) -> None:
        """Tell gradients from activations; DistributedDataParallel's lie in buckets that live from step to step."""

        def arrived(parameter: Tensor, bucket: Tensor | None) -> None:
            if bucket is not None and parameter.grad is not bucket:
                parameter.grad = bucket.copy_(cast(Tensor, parameter.grad))
            recorder.mark([parameter.grad], GRADIENTS)

        for parameter in self.parameters():
            if parameter.requires_grad:
                bucket = torch.empty_like(parameter) if in_buckets else None
                recorder.mark([bucket], GRADIENTS)
                parameter.register_post_accumulate_grad_hook(partial(arrived, bucket=bucket))

    def _name_exchanges(self, recorder: Recorder) -> None:
        for module in self.modules():
            if isinstance(module, FSDPModule):
                module.set_custom_all_gather(_AllGather(recorder))
                module.set_custom_reduce_scatter(_ReduceScatter(recorder))

    def to(self, *args: Any, **kwargs: Any) -> "_Step":
        """Stay: tensors without values are nowhere."""
        return self

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Return the one optimizer."""
        return self.optimizer

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Send a loss back."""
        loss.backward()

    def log_dict(self, *args: Any, **kwargs: Any) -> None:
        """Log nothing."""


class _AllGather(DefaultAllGather):
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.recorder.mark([output_tensor], GATHERED)
        return super().__call__(output_tensor, input_tensor, *args, **kwargs)


class _ReduceScatter(DefaultReduceScatter):
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.recorder.mark([output_tensor], GRADIENTS)
        self.recorder.mark([input_tensor], SCATTERED)
        return super().__call__(output_tensor, input_tensor, *args, **kwargs)


def _move_from_meta(network: nn.Module) -> None:
    for name, parameter in network._parameters.items():
        if parameter is not None:
            empty = torch.empty_like(parameter, device="cpu")
            network._parameters[name] = nn.Parameter(empty, parameter.requires_grad)
    for name, buffer in network._buffers.items():
        if buffer is not None:
            network._buffers[name] = torch.empty_like(buffer, device="cpu")


def _batch(images: Images, module: ARL) -> PretrainingBatch:
    options = module.encoder_options

    def crops(num_views: int, size: int) -> Tensor:
        return torch.empty(images.batch_size, num_views, options.in_chans, size, size, dtype=torch.uint8)

    return {
        "global_views": crops(images.num_global_views, options.image_size),
        "local_views": crops(images.num_local_views, images.local_size),
        "anatomy": torch.empty(images.batch_size, dtype=torch.long),
        "seed": torch.empty(images.batch_size, dtype=torch.long),
        "key": [""] * images.batch_size,
    }


@contextmanager
def _ranks(layout: Layout, on_gpu: bool) -> Iterator[Any]:
    """Be the first of many ranks, whose exchanges do nothing; gives the strategy."""
    if layout.strategy not in (DDP, FSDP2, HSDP):
        yield None
        return
    dist.init_process_group("fake", rank=0, world_size=layout.ranks, store=FakeStore())
    try:
        yield None if layout.strategy == DDP else _sharding(layout, on_gpu)
    finally:
        dist.destroy_process_group()


def _sharding(layout: Layout, on_gpu: bool) -> Any:
    strategy: Any = build_strategy(layout.strategy, Distributed(), layout.replicas)
    strategy.parallel_devices = [torch.device("cuda" if on_gpu else "cpu")]  # blocks are gathered in bfloat16 on GPUs
    if layout.replicas == 1:
        mesh = init_device_mesh("cpu", (layout.ranks,), mesh_dim_names=(SHARD,))
    else:
        shape = (layout.replicas, layout.ranks // layout.replicas)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=(REPLICATE, SHARD))
    strategy._device_mesh = mesh
    return strategy


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Let the CPU's code take the paths of a GPU where they differ in memory."""
    table_bytes = sampling.CPU_TABLE_BYTES
    sampling.CPU_TABLE_BYTES = sys.maxsize
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("layer_norm", _layer_norm_in_float32, "AutocastCPU")
        try:
            yield
        finally:
            sampling.CPU_TABLE_BYTES = table_bytes


def _layer_norm_in_float32(
    images: Tensor,
    shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    epsilon: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        scale, shift = (None if each is None else each.float() for each in (weight, bias))
        return F.layer_norm(images.float(), shape, scale, shift, epsilon)
