"""What is trained in every layout, and what is broken on purpose."""

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib.image
import torch
from exchanges import WEIGHTS_KEPT, count_exchanges
from halves import train_in_halves
from layouts import DDP_2, DDP_4, FSDP2, HSDP, OPTIONS, SINGLE, Layout, whole
from tiny_arl import Around, Recorder, fit, part, random_batch, tiny_arl, tiny_encoder

from arl_lightning.data.batch import PretrainingBatch
from arl_lightning.objectives import adaptive_weight
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.callbacks import ReconstructionPictures
from arl_lightning.training.communication import Communication

NUM_IMAGES, NUM_STEPS = 8, 8
LOOKS_EVERY = 4  # steps from one look at held-out images, and one picture, to the next
ANATOMIES = [0, 1, 2, 2, 5, 5, 5, 5]  # three for the first of two ranks to show, one for the second

# Gradients are larger than `clip`: a norm that is not the global one shows too.
EVERYTHING: dict[str, dict[str, Any]] = {
    "self_distillation": {"patch_weight": 0.5},
    "optimization": {"accumulate_batches": 2, "clip": 0.5},
}
LOOKED_AT: dict[str, dict[str, Any]] = {"optimization": {"clip": 0.5}}
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
    "one rank not finite": {"optimization": {"clip": 0.5}},
    "looked at": LOOKED_AT,
}
# What trains as another scenario does in one process.
VARIANTS = {"recomputed activations": "everything", "compiled": "looked at", "weights kept": "looked at"}
# KoLeo compares a rank's own images, as its authors do: it depends on the number of ranks, not on how weights lie.
KOLEO = {**EVERYTHING, "self_distillation": {"patch_weight": 0.5, "koleo_weight": 0.1}}
CHOICES = {
    **SCENARIOS,
    "recomputed activations": {**EVERYTHING, "encoder": {"checkpoint_gradients": True}},
    "compiled": LOOKED_AT,
    "weights kept": LOOKED_AT,
    "koleo": KOLEO,
    "own lambda": EVERYTHING,
    "own gradients": EVERYTHING,
}
ALIKE = [name for name in SCENARIOS if name != "looked at"]  # its variants look at as much
RUNS: dict[Layout, list[str]] = {
    SINGLE: [*SCENARIOS],
    DDP_2: [*ALIKE, "recomputed activations", "compiled", "koleo", "own lambda", "own gradients"],
    DDP_4: ["everything", "koleo"],
    FSDP2: [*ALIKE, "recomputed activations", "compiled", "weights kept", "koleo"],
    HSDP: ["everything", "koleo"],
}
REFERENCES = {**dict(zip(SCENARIOS, SCENARIOS, strict=True)), **VARIANTS}
COMPARED = [
    (layout, name) for layout, names in RUNS.items() if layout != SINGLE for name in names if name in REFERENCES
]
BAD_BATCH = 3


def options_of(name: str) -> dict[str, dict[str, Any]]:
    # A fifth of the usual rate: AdamW turns rounding errors of gradients that are zero in truth into steps of its size.
    options = {"optimization": {}, **CHOICES[name]}
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


@contextmanager
def graphs_counted() -> Iterator[list[int]]:
    """Compile without a code generator: how graphs, hooks and sharded weights get along is what counts here."""
    sizes: list[int] = []

    def note(graph: torch.fx.GraphModule, inputs: Any) -> Callable:
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    with mock.patch.object(torch, "compile", partial(torch.compile, backend=note)):
        yield sizes


def batches_of(layout: Layout, rank: int, seeds: range, looked_at: bool) -> list[PretrainingBatch]:
    """Return a rank's part of some batches."""
    share = NUM_IMAGES // layout.world_size
    batches = [random_batch(NUM_IMAGES, seed) for seed in seeds]
    if looked_at:
        batches = [{**batch, "anatomy": torch.tensor(ANATOMIES)} for batch in batches]
    return [part(batch, rank * share, (rank + 1) * share) for batch in batches]


def train(layout: Layout, name: str, rank: int) -> dict[str, Any]:
    """Train one scenario on a rank's part of every batch."""
    options, looked_at = options_of(name), CHOICES[name] is LOOKED_AT
    num_batches = NUM_STEPS * options["optimization"].get("accumulate_batches", 1)
    recorder = Recorder()
    # The ranks draw other weights: those of the first one must count.
    module = tiny_arl(NUM_IMAGES // layout.world_size, rank, compile=name == "compiled", **options)
    callbacks = [recorder, Communication(), *([Around(spoil)] if name == "one rank not finite" else [])]
    more = layout.trainer_arguments(WEIGHTS_KEPT if name == "weights kept" else OPTIONS)
    with tempfile.TemporaryDirectory() as folder, broken(name), graphs_counted() as graphs:
        if looked_at:
            callbacks.append(ReconstructionPictures(Path(folder), LOOKS_EVERY, max_rows=3))
            held_out = batches_of(layout, rank, range(100, 102), looked_at)
            more |= {"held_out": held_out, "val_check_interval": LOOKS_EVERY}
        batches = batches_of(layout, rank, range(num_batches), looked_at)
        trainer = fit(module, batches, NUM_STEPS, callbacks, **more)
        pictures = [torch.tensor(matplotlib.image.imread(path)) for path in sorted(Path(folder).iterdir())]
    assert trainer.world_size == layout.world_size
    return {
        "weights": whole(module),
        "metrics": recorder.metrics,
        "global_step": trainer.global_step,
        "nonfinite_steps": module.nonfinite_steps,
        "learning_rates": [group["lr"] for group in trainer.optimizers[0].param_groups],
        "graphs": graphs,
        "pictures": pictures,
    }


def train_all(layout: Layout, rank: int) -> dict[str, dict[str, Any]]:
    """Train all of a layout's scenarios, and count its exchanges."""
    with tiny_encoder():
        trained = {name: train(layout, name, rank) for name in RUNS[layout]}
        if layout in (DDP_2, FSDP2):
            trained |= {"exchanges": count_exchanges(layout, rank), "halves": train_in_halves(layout, rank)}
        return trained
