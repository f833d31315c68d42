"""Real training processes whose memory is measured: networks of some hundred megabytes, in float32, on CPUs.

What is measured is the resident memory of a process, as Linux counts it: its peak over three steps, above its level
before the networks were built. Code, caches and communication are there before: a tiny run of the same kind goes first.
The allocator must give freed memory back at once (`ALLOCATOR`), or its reserves would be counted.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tiny_arl import GROUPS, fit, random_batch, tiny_arl, tiny_encoder

from arl_lightning.distributed.options import Distributed
from arl_lightning.distributed.strategies import build_strategy
from arl_lightning.models import registry
from arl_lightning.pretraining import options
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.memory.step import Images

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
IMAGES = Images(batch_size=12, num_global_views=2, num_local_views=2, local_size=32)
NUM_STEPS = 3  # DDP lays out its buckets anew for the second one, and first touches these there
STRATEGIES = ("auto", "ddp", "fsdp2")
MODEL: dict[str, Any] = GROUPS | {
    "encoder": options.Encoder("avit_tiny_patch8_224", image_size=64),
    "decoder": options.Decoder(depth=1, dim=256, num_heads=8),
    "self_distillation": options.SelfDistillation(num_prototypes=24576, freeze_prototypes_share=0.0),
}


@contextmanager
def medium_encoder() -> Iterator[None]:
    """Let the registered tiny A-ViT have two blocks of 512 channels."""
    with mock.patch.dict(registry.SIZES, {"tiny": {"embed_dim": 512, "depth": 2, "num_heads": 8}}):
        yield


def measure(rank: int) -> dict[str, int]:
    """Return bytes by strategy, on one of two ranks."""
    return {strategy: _measure(strategy) for strategy in STRATEGIES}


def _measure(strategy: str) -> int:
    with tiny_encoder():
        _fit(tiny_arl().float(), random_batch(), strategy)
    gc.collect()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    with medium_encoder():
        module = ARL(**MODEL, batch_size=IMAGES.batch_size)
        module.configure_model()
        batch = random_batch(IMAGES.batch_size, num_local=IMAGES.num_local_views)
        batch["global_views"] = torch.randint(0, 256, (IMAGES.batch_size, 2, 1, 64, 64)).to(torch.uint8)
        batch["local_views"] = torch.randint(0, 256, (IMAGES.batch_size, 2, 1, 32, 32)).to(torch.uint8)
        _fit(module, batch, strategy)
    return _resident("VmHWM") - before


def _fit(module: ARL, batch: Any, strategy: str) -> None:
    arguments: dict[str, Any] = {"precision": "32-true", "devices": 1}
    if strategy != "auto":
        chosen = build_strategy(strategy, Distributed(timeout_seconds=120))
        arguments |= {"strategy": chosen, "devices": 2, "use_distributed_sampler": False}
    fit(module, [batch], NUM_STEPS, **arguments)


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
