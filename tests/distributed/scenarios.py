"""What is trained in every layout, and what is broken on purpose."""

import math
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest import mock

import torch
from exchanges import count_exchanges
from layouts import DDP_2, DDP_4, FSDP2, HSDP, SINGLE, Layout, whole
from tiny_arl import Around, Recorder, fit, part, random_batch, tiny_arl, tiny_encoder

from arl_lightning.objectives import adaptive_weight
from arl_lightning.pretraining.arl import ARL

NUM_IMAGES, NUM_STEPS = 8, 8

# Gradients are larger than `clip`: a norm that is not the global one shows too.
EVERYTHING: dict[str, dict[str, Any]] = {
    "self_distillation": {"patch_weight": 0.5},
    "optimization": {"accumulate_batches": 2, "clip": 0.5},
}
SCENARIOS: dict[str, dict[str, dict[str, Any]]] = {
    "everything": EVERYTHING,
    "sinkhorn": {
        "self_distillation": {"targets": "sinkhorn", "patch_weight": 0.5},
        "adversarial": {"start_share": 0.25},
    },
    "full view, normalised pixels": {
        "self_distillation": {"student_view": "full"},
        "reconstruction": {"norm_pix_loss": True},
        "adversarial": {"loss": "hinge", "update_every": 2},
    },
    "pixels only": {"self_distillation": {"enabled": False}},
    "recomputed activations": {**EVERYTHING, "encoder": {"checkpoint_gradients": True}},
    "one rank not finite": {"optimization": {"clip": 0.5}},
    "compiled": {"optimization": {"clip": 0.5}},
}
# KoLeo compares a rank's own images, as its authors do: it depends on the number of ranks, not on how weights lie.
KOLEO = {**EVERYTHING, "self_distillation": {"patch_weight": 0.5, "koleo_weight": 0.1}}
OPTIONS = {**SCENARIOS, "koleo": KOLEO, "own lambda": EVERYTHING, "own gradients": EVERYTHING}
RUNS: dict[Layout, list[str]] = {
    SINGLE: [*SCENARIOS],
    DDP_2: [name for name in OPTIONS if name != "compiled"],
    DDP_4: ["everything", "koleo"],
    FSDP2: [*SCENARIOS, "koleo"],
    HSDP: ["everything", "koleo"],
}
COMPARED = [(layout, name) for layout, names in RUNS.items() if layout != SINGLE for name in names if name in SCENARIOS]
BAD_BATCH = 3


def options_of(name: str) -> dict[str, dict[str, Any]]:
    # A fifth of the usual rate: AdamW turns rounding errors of gradients that are zero in truth into steps of its size.
    options = {"optimization": {}, **OPTIONS[name]}
    options["optimization"] = {"base_lr": 0.01, "discriminator_base_lr": 0.01, **options["optimization"]}
    return options


def broken(name: str) -> Any:
    """Break what the name says, to see that the comparison notices."""
    if name == "own lambda":
        return mock.patch.object(adaptive_weight, "all_reduce_mean", lambda tensor: tensor)
    if name == "own gradients":
        return mock.patch.object(ARL, "manual_backward", lambda module, loss: loss.backward())
    return nullcontext()


def spoil(trainer: Any, module: ARL, batch_idx: int) -> None:
    """Make one batch's reconstruction NaN, on the last rank."""
    if trainer.fit_loop.total_batch_idx == BAD_BATCH and trainer.global_rank == trainer.world_size - 1:
        handle = module.student.decoder.last.register_forward_hook(
            lambda *parts: (handle.remove(), parts[2] * math.nan)[1]
        )


def train(layout: Layout, name: str, rank: int) -> dict[str, Any]:
    """Train one scenario on a rank's part of every batch."""
    options = options_of(name)
    num_batches = NUM_STEPS * options["optimization"].get("accumulate_batches", 1)
    share = NUM_IMAGES // layout.world_size
    batches = [part(random_batch(NUM_IMAGES, seed), rank * share, (rank + 1) * share) for seed in range(num_batches)]
    recorder = Recorder()
    compiled = name == "compiled" and layout != SINGLE
    module = tiny_arl(
        share, rank, compile=compiled, **options
    )  # the ranks draw other weights: those of the first one must count
    callbacks = [recorder, *([Around(spoil)] if name == "one rank not finite" else [])]
    # Without a code generator: how compiled blocks and sharded weights get along is what counts here.
    with broken(name), mock.patch.object(torch, "compile", partial(torch.compile, backend="eager")):
        trainer = fit(module, batches, NUM_STEPS, callbacks, **layout.trainer_arguments())
    assert trainer.world_size == layout.world_size
    return {
        "weights": whole(module),
        "metrics": recorder.metrics,
        "global_step": trainer.global_step,
        "nonfinite_steps": module.nonfinite_steps,
        "learning_rates": [group["lr"] for group in trainer.optimizers[0].param_groups],
    }


def train_all(layout: Layout, rank: int) -> dict[str, dict[str, Any]]:
    """Train all of a layout's scenarios, and count its exchanges."""
    with tiny_encoder():
        trained = {name: train(layout, name, rank) for name in RUNS[layout]}
        return trained | ({"exchanges": count_exchanges(layout, rank)} if layout in (DDP_2, FSDP2) else {})
