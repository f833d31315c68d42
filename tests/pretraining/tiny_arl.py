"""A whole pretraining run that takes a second: an encoder of two blocks, images of 4 x 4 patches.

`tiny_encoder()` must be in force while networks are built.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from arl_lightning.data.augmentation import Augmentation
from arl_lightning.data.batch import PretrainingBatch
from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.models import registry
from arl_lightning.pretraining import options
from arl_lightning.pretraining.arl import ARL

IMAGE_SIZE, LOCAL_SIZE, NUM_PATCHES = 32, 16, 16
SIZE = {"embed_dim": 24, "depth": 2, "num_heads": 2}
NO_AUGMENTATION = Augmentation(
    gain_probability=0.0,
    dynamic_range_probability=0.0,
    attenuation_probability=0.0,
    haze_probability=0.0,
    shadow_probability=0.0,
)

# Nothing waits, warms up or is frozen at first, and the learning rate is large: every step shows.
GROUPS: dict[str, Any] = {
    "encoder": options.Encoder("avit_tiny_patch8_224", image_size=IMAGE_SIZE),
    "decoder": options.Decoder(depth=1, dim=16, num_heads=2),
    "masking": options.Masking(),
    "reconstruction": options.Reconstruction(),
    "adversarial": options.Adversarial(start_share=0.0, width=4),
    "self_distillation": options.SelfDistillation(
        num_prototypes=12, hidden_dim=16, bottleneck_dim=8, freeze_prototypes_share=0.0
    ),
    "optimization": options.Optimization(
        base_lr=0.05, discriminator_base_lr=0.05, warmup_share=0.0, teacher_momentum=0.9
    ),
}

# The same sizes on the command line.
TINY_WORDS = (
    "--trainer.accelerator=cpu",
    "--model.encoder.name=avit_tiny_patch8_224",
    "--model.encoder.image_size=32",
    "--model.decoder={depth: 1, dim: 16, num_heads: 2}",
    "--model.adversarial={start_share: 0.0, width: 4}",
    "--model.self_distillation={num_prototypes: 12, hidden_dim: 16, bottleneck_dim: 8, freeze_prototypes_share: 0.0}",
    "--data.batch_size=4",
    "--data.num_workers=0",
    "--data.num_local_views=1",
    "--data.local_size=16",
)


def tiny_encoder() -> AbstractContextManager:
    """Shrink the registered tiny A-ViT."""
    return mock.patch.dict(registry.SIZES, {"tiny": SIZE})


def tiny_arl(
    batch_size: int = 4, seed: int = 0, anatomy_dropout: float = 0.1, compile: bool = False, **changes: dict[str, Any]
) -> ARL:
    """Build the module with its networks, in float64, drawn from the seed; changes are fields of an option group."""
    groups = {name: dataclasses.replace(group, **changes.pop(name, {})) for name, group in GROUPS.items()}
    assert not changes, f"no such group: {changes}"
    module = ARL(**groups, batch_size=batch_size, anatomy_dropout=anatomy_dropout, compile=compile)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module.configure_model()
    # A checkpoint is loaded before Lightning converts the networks: float32 ones would round it.
    return module.double()


def random_batch(num_images: int = 4, seed: int = 0, num_global: int = 2, num_local: int = 1) -> PretrainingBatch:
    """Draw crops whose brightness differs from image to image."""
    generator = torch.Generator().manual_seed(seed)

    def crops(num_views: int, size: int) -> Tensor:
        noise = torch.rand(num_images, num_views, 1, size, size, generator=generator)
        bright = torch.rand(num_images, 1, 1, 1, 1, generator=generator)
        return (255 * noise * bright).to(torch.uint8)

    return {
        "global_views": crops(num_global, IMAGE_SIZE),
        "local_views": crops(num_local, LOCAL_SIZE),
        "anatomy": torch.randint(0, 17, (num_images,), generator=generator),
        "seed": torch.randint(0, 2**62, (num_images,), generator=generator),
        "key": [f"{seed}-{image}" for image in range(num_images)],
    }


def part(batch: PretrainingBatch, start: int, stop: int) -> PretrainingBatch:
    """Return some images of a batch."""
    return {name: values[start:stop] for name, values in batch.items()}  # type: ignore[return-value]


def tiny_data(folder: Path, **arguments: Any) -> PretrainingDataModule:
    """Stream packed shards in the sizes of `tiny_arl`."""
    small = {"batch_size": 4, "num_workers": 0, "num_local_views": 1}
    return PretrainingDataModule(str(folder), global_size=IMAGE_SIZE, local_size=LOCAL_SIZE, **{**small, **arguments})


class Recorder(pl.Callback):
    """Remembers every batch's keys and logged metrics."""

    def __init__(self) -> None:
        self.keys: list[list[str]] = []
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.keys.append(batch["key"])
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


class Around(pl.Callback):
    """Calls a function with trainer, module and batch index before every batch, another one after it."""

    def __init__(self, before: Callable | None = None, after: Callable | None = None) -> None:
        self.before, self.after = before, after

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.before is not None:
            self.before(trainer, pl_module, batch_idx)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.after is not None:
            self.after(trainer, pl_module, batch_idx)


def fit(
    module: ARL,
    data: PretrainingDataModule | list[PretrainingBatch],
    max_steps: int,
    callbacks: Iterable[pl.Callback] = (),
    ckpt_path: Path | None = None,
    held_out: list[PretrainingBatch] | None = None,
    **arguments: Any,
) -> pl.Trainer:
    """Train in float64 on the CPU; a list of batches is repeated, and held-out ones are looked at after each step.

    A run whose steps are all skipped would never end: it fails instead.
    """

    def check(trainer: pl.Trainer, module: ARL, batch_idx: int) -> None:
        num_batches = trainer.fit_loop.total_batch_idx
        assert num_batches < 20 * max_steps, f"step {trainer.global_step} of {max_steps} after {num_batches} batches"

    callbacks = [*callbacks, Around(before=check)]
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(hasattr(callback, "best_model_path") for callback in callbacks),
        "accelerator": "cpu",
        "precision": "64-true",
    }
    if held_out is not None:
        quiet |= {"val_check_interval": 1, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    trainer = pl.Trainer(max_steps=max_steps, callbacks=callbacks, **{**quiet, **arguments})
    source = DataLoader(data, batch_size=None) if isinstance(data, list) else data  # type: ignore[arg-type]
    validation = None if held_out is None else DataLoader(held_out, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, source, validation, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def snapshot(trainer: pl.Trainer, module: ARL) -> dict[str, Any]:
    """Copy all weights, buffers and the optimizer's state."""
    return {
        **copy.deepcopy(dict(module.state_dict())),
        "optimizer": copy.deepcopy(trainer.optimizers[0].state_dict()["state"]),
    }


def same(a: Any, b: Any) -> bool:
    """Compare nested states bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b
