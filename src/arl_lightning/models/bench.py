"""A-ViT beside timm's plain ViT: parameters, operations and latency on this CPU (`arl bench model`)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, cast

import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from arl_lightning.errors import UserError
from arl_lightning.models.acdt import AnatomyConditionedSampling
from arl_lightning.models.cost import Cost, model_cost
from arl_lightning.models.encoder import AViT
from arl_lightning.models.registry import MODEL_NAMES, SIZES

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Latency:
    """Milliseconds an image, medians over the runs.

    Attributes:
        avit: Of A-ViT.
        plain: Of the plain ViT.
        ratio: Median over the runs of each run's own ratio: another job on the machine slows both of a pair.
    """

    avit: float
    plain: float
    ratio: float


@dataclass(frozen=True)
class Report:
    """What `bench` measured.

    Attributes:
        setting: What was run, in words.
        avit: Cost of A-ViT.
        plain: Cost of the plain ViT.
        latency: Of each precision.
    """

    setting: str
    avit: Cost
    plain: Cost
    latency: dict[Precision, Latency]

    def __str__(self) -> str:
        avit, plain = self.avit, self.plain
        lines = [
            self.setting,
            f"{'':20}{'A-ViT':>10}{'ViT':>10}{'ratio':>8}",
            _line("parameters (M)", avit.parameters / 1e6, plain.parameters / 1e6),
            _line("GMACs an image", avit.macs / 1e9, plain.macs / 1e9),
            f"{'bilinear GMACs':20}{avit.bilinear_macs / 1e9:10.2f}",
            *(_line(f"{name} ms an image", each.avit, each.plain, each.ratio) for name, each in self.latency.items()),
            "Without classifier head. Latency: medians; the ratio is the median of the pairs' ratios. The offsets are",
            "random, about a patch long: a fresh A-ViT would read the regular grid, which no trained one does.",
        ]
        return "\n".join(lines)


def bench(
    model: str = "avit_base_patch16_224",
    image_size: int = 224,
    in_chans: int = 1,
    batch_size: int = 8,
    threads: int = 1,
    precision: Literal["fp32", "bf16", "both"] = "both",
    runs: int = 5,
) -> Report:
    """Count A-ViT's parameters and operations and time it on the CPU, in alternating runs with timm's plain ViT.

    Args:
        model: Name of an A-ViT, such as avit_base_patch16_224.
        image_size: Pixels a side; a multiple of the patch size.
        in_chans: Channels of the images.
        batch_size: Images at once.
        threads: CPU threads.
        precision: fp32, bf16 (autocast) or both.
        runs: Timed pairs, after one to warm up.

    Raises:
        UserError: If there is no such model, or a size does not fit it.
    """
    counts = {"image_size": image_size, "in_chans": in_chans, "batch_size": batch_size, "threads": threads}
    _check(model, {**counts, "runs": runs})
    avit, plain = _pair(model, image_size, in_chans)
    _randomise_offsets(avit)
    inputs = torch.randn(batch_size, in_chans, image_size, image_size), torch.arange(batch_size) % avit.num_anatomies
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if precision == "both" else (precision,)
    with _num_threads(threads):
        latency = {each: _compare(avit, plain, *inputs, each, runs) for each in precisions}
        avit_cost, plain_cost = model_cost(avit, image_size), model_cost(plain, image_size)
    setting = f"{model}: {image_size} x {image_size} pixels, {in_chans} channel(s), batch {batch_size}, "
    setting += f"{threads} CPU thread(s), {runs} pair(s) of runs"
    return Report(setting, avit_cost, plain_cost, latency)


def _check(model: str, counts: dict[str, int]) -> None:
    if model not in MODEL_NAMES:
        raise UserError(f"model: '{model}' is not one of {', '.join(MODEL_NAMES)}")
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name}: must be at least 1, got {count}")
    patch_size = int(model.split("_")[2].removeprefix("patch"))  # avit_base_patch16_224
    if counts["image_size"] % patch_size:
        raise UserError(f"image_size: {counts['image_size']} is not divisible by {model}'s patches of {patch_size}")


def _pair(model: str, image_size: int, in_chans: int) -> tuple[AViT, VisionTransformer]:
    size = SIZES[model.split("_")[1]]  # avit_base_patch16_224
    shape: dict[str, Any] = {**size, "img_size": image_size, "in_chans": in_chans, "num_classes": 0}
    avit = cast(AViT, timm.create_model(model, **shape))
    plain = VisionTransformer(patch_size=avit.patch_size, **shape)
    return avit.eval(), plain.eval()


def _randomise_offsets(avit: AViT) -> None:
    """Spread the sampling locations with a deviation of about one patch, as training does."""
    for module in avit.modules():
        if isinstance(module, AnatomyConditionedSampling):
            nn.init.normal_(module.offset_pointwise.weight, std=3 * avit.embed_dim**-0.5)


@contextmanager
def _num_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compare(
    avit: AViT, plain: VisionTransformer, image: Tensor, anatomy: Tensor, precision: Precision, runs: int
) -> Latency:
    contestants: list[tuple[nn.Module, tuple[Tensor, ...]]] = [(avit, (image, anatomy)), (plain, (image,))]
    pairs = []
    for run in range(runs + 1):
        order = contestants[:: 1 if run % 2 else -1]  # taking turns at going first
        times = {model: _milliseconds(model, inputs, precision) / len(image) for model, inputs in order}
        pairs.append((times[avit], times[plain]))
    del pairs[0]  # warms up
    return Latency(median(a for a, _ in pairs), median(p for _, p in pairs), median(a / p for a, p in pairs))


def _milliseconds(model: nn.Module, inputs: tuple[Tensor, ...], precision: Precision) -> float:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        start = time.perf_counter()
        model(*inputs)
        return 1e3 * (time.perf_counter() - start)


def _line(name: str, avit: float, plain: float, ratio: float | None = None) -> str:
    return f"{name:20}{avit:10.2f}{plain:10.2f}{avit / plain if ratio is None else ratio:8.3f}"
