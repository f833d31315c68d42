"""`arl bench memory`: whether a training step fits on a GPU, computed without one."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from arl_lightning.errors import UserError
from arl_lightning.models.registry import MODEL_NAMES
from arl_lightning.pretraining.memory.report import GIB, Column, MemoryReport
from arl_lightning.pretraining.memory.step import DDP, FSDP2, HSDP, SINGLE, Images, Layout, step_memory
from arl_lightning.pretraining.options import Encoder
from arl_lightning.pretraining.recipe import build_cli
from arl_lightning.training.quiet import silence_lightning

SHORT_NAMES = {
    "t": "avit_tiny_patch16_224",
    "s": "avit_small_patch16_224",
    "b": "avit_base_patch16_224",
    "l": "avit_large_patch16_224",
    "h": "avit_huge_patch14_224",  # as ViT-H/14
}
PRECISIONS = {"bf16": "bf16-mixed", "fp32": "32-true"}


def memory(
    model: str | None = None,
    gpus: int = 64,
    gpus_per_node: int = 8,
    gpu_memory: float = 80.0,
    reserve: float = 6.0,
    config: Path | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    num_global_views: int | None = None,
    num_local_views: int | None = None,
    local_size: int | None = None,
    precision: Literal["bf16", "fp32"] = "bf16",
    checkpoint_gradients: bool | None = None,
) -> MemoryReport:
    """Compute the memory that a pretraining step takes on each GPU, under DDP, HSDP and FSDP2.

    Args:
        model: t, s, b, l, h, or a full name such as avit_huge_patch14_224; null: the recipe's, or b.
        gpus: In all.
        gpus_per_node: HSDP shards weights among these.
        gpu_memory: GiB of one GPU.
        reserve: GiB of them that tensors cannot have: CUDA, NCCL, fragmentation.
        config: A recipe of `arl pretrain`, for everything that is not given here; null: the defaults.
        batch_size: Images a GPU.
        image_size: Pixels a side of a global view.
        num_global_views: Global views of an image.
        num_local_views: Local views of an image.
        local_size: Pixels a side of a local view; null: the recipe's, or the nearest that the patch size divides.
        precision: bf16 (autocast) or fp32.
        checkpoint_gradients: Whether activations are recomputed; null: both.

    Raises:
        UserError: If there is no such model or recipe, or sizes do not fit each other.
    """
    silence_lightning()
    counts = {"gpus": gpus, "gpus_per_node": gpus_per_node, "batch_size": batch_size, "local_size": local_size}
    views = {"num_global_views": num_global_views, "num_local_views": num_local_views}
    _check(counts, views, gpu_memory - reserve)
    images = {"batch_size": batch_size, **views, "local_size": local_size}
    arguments, batch = _recipe(config, model, image_size, {k: v for k, v in images.items() if v is not None})
    question = _Question(arguments, batch, PRECISIONS[precision], (gpu_memory - reserve) * GIB)
    layouts = _layouts(gpus, gpus_per_node)
    tables: dict[bool, list[Column]] = {}
    recomputed = (False, True) if checkpoint_gradients is None else (checkpoint_gradients,)
    asked = [(recompute, layout) for recompute in recomputed for layout in layouts]
    for recompute, layout in tqdm(
        asked, desc="memory", unit="layout", file=sys.stderr, disable=not sys.stderr.isatty()
    ):
        tables.setdefault(recompute, []).append(question.column(layout, recompute))
    setting = f"{question.setting}, {gpus} GPUs in nodes of {min(gpus, gpus_per_node)}"
    return MemoryReport(setting, batch.batch_size, gpu_memory, reserve, tables)


@dataclass(frozen=True)
class _Question:
    arguments: dict[str, Any]
    images: Images
    precision: str
    budget: float  # bytes
    slopes: dict[bool, float] = field(default_factory=dict)  # bytes an image, the same under every strategy

    @property
    def setting(self) -> str:
        """What is looked at, in words."""
        encoder, images = self.arguments["encoder"], self.images
        return (
            f"{encoder.name}: {images.batch_size} images a GPU, {images.num_global_views} views of"
            f" {encoder.image_size} px and {images.num_local_views} of {images.local_size} px, {self.precision}"
        )

    def column(self, layout: Layout, recompute: bool) -> Column:
        """Compute the peak, and where it is too high the batch that fits."""
        parts = self._parts(layout, recompute, self.images.batch_size)
        fitting = self.images.batch_size
        if sum(parts.values()) > self.budget:
            fitting = self._largest_batch(layout, recompute, sum(parts.values()))
        return Column(layout.strategy, parts, fitting)

    def _largest_batch(self, layout: Layout, recompute: bool, peak: int) -> int:
        """Follow the line through two batches; what is returned has been computed, and fits."""
        fits, too_large = 0, self.images.batch_size
        while too_large > 1:
            slope = self.slopes.get(recompute)
            tried = too_large // 4 or 1 if slope is None else int(too_large - (peak - self.budget) / slope)
            tried = min(tried, too_large - 1)
            if tried <= fits:  # the line says that one more is too many
                break
            total = sum(self._parts(layout, recompute, tried).values())
            self.slopes[recompute] = (peak - total) / (too_large - tried)
            if total <= self.budget:
                fits = tried
            else:
                too_large, peak = tried, total
        return fits

    def _parts(self, layout: Layout, recompute: bool, batch_size: int) -> dict[str, int]:
        encoder = dataclasses.replace(self.arguments["encoder"], checkpoint_gradients=recompute)
        images = dataclasses.replace(self.images, batch_size=batch_size)
        return step_memory({**self.arguments, "encoder": encoder}, images, layout, self.precision)


def _check(counts: dict[str, int | None], views: dict[str, int | None], usable: float) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"{name}: must be at least 1, got {count}")
    for name, count in views.items():
        if count is not None and count < 0:
            raise UserError(f"{name}: must be at least 0, got {count}")
    gpus, per_node = counts["gpus"] or 1, counts["gpus_per_node"] or 1
    if gpus > per_node and gpus % per_node:
        raise UserError(f"gpus: {gpus} is not a multiple of gpus_per_node, {per_node}")
    if usable <= 0:
        raise UserError("reserve: must be below gpu_memory")


def _layouts(gpus: int, gpus_per_node: int) -> list[Layout]:
    if gpus == 1:
        return [Layout(SINGLE)]
    strategies = (DDP, HSDP, FSDP2) if gpus > gpus_per_node else (DDP, FSDP2)
    return [Layout(strategy, gpus, gpus_per_node) for strategy in strategies]


def _recipe(
    config: Path | None, model: str | None, image_size: int | None, given: dict[str, int]
) -> tuple[dict[str, Any], Images]:
    """Return ARL's arguments and a rank's images: the recipe's, or the defaults, with what was given instead."""
    arguments: dict[str, Any] = {}
    encoder, images = Encoder(), Images(batch_size=64)
    if config is not None:
        if not config.is_file():
            raise UserError(f"config: there is no file {config}")
        cli = build_cli(["--config", str(config)], with_trainer=False)
        arguments, encoder = dict(cli.model.recipe), cli.model.encoder_options
        crops = cli.datamodule.transform.multi_crop
        images = Images(cli.datamodule.batch_size, crops.num_global, crops.num_local, crops.local_size)
    encoder = dataclasses.replace(encoder, name=_full_name(model or encoder.name))
    encoder = dataclasses.replace(encoder, image_size=image_size or encoder.image_size)
    patch_size = int(encoder.name.split("_")[2].removeprefix("patch"))  # avit_base_patch16_224
    if "local_size" not in given:
        given = {**given, "local_size": max(1, round(images.local_size / patch_size)) * patch_size}
    for name, size in {"image_size": encoder.image_size, "local_size": given["local_size"]}.items():
        if size % patch_size:
            raise UserError(f"{name}: {size} is not divisible by {encoder.name}'s patches of {patch_size}")
    return {**arguments, "encoder": encoder}, dataclasses.replace(images, **given)


def _full_name(model: str) -> str:
    name = SHORT_NAMES.get(model, model)
    if name not in MODEL_NAMES:
        raise UserError(f"model: '{model}' is not one of {', '.join([*SHORT_NAMES, *MODEL_NAMES])}")
    return name
