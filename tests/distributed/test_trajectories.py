"""Ranks that have a part of each batch train what one process trains with all of it, however weights lie on them.

Only this comparison catches weights that are not synchronised and a lambda that is each rank's own: both leave every
loss finite and falling, the second even leaves the ranks alike.
"""

import math
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from layouts import DDP_2, DDP_4, FSDP2, HSDP, SINGLE, Layout, spawn, whole
from tiny_arl import Around, Recorder, fit, part, random_batch, tiny_arl, tiny_encoder

from arl_lightning.objectives import adaptive_weight
from arl_lightning.pretraining.arl import ARL

NUM_IMAGES, NUM_STEPS = 8, 8
TOLERANCE = 1e-9

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
}
# KoLeo compares a rank's own images, as its authors do: it depends on the number of ranks, not on how weights lie.
KOLEO = {**EVERYTHING, "self_distillation": {"patch_weight": 0.5, "koleo_weight": 0.1}}
OPTIONS = {**SCENARIOS, "koleo": KOLEO, "own lambda": EVERYTHING, "own gradients": EVERYTHING}
RUNS: dict[Layout, list[str]] = {
    SINGLE: [*SCENARIOS],
    DDP_2: [*OPTIONS],
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
    return mock.patch.object(adaptive_weight, "__doc__")  # nothing


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
    module = tiny_arl(share, seed=rank, **options)  # the ranks draw other weights: those of the first one must count
    callbacks = [recorder, *([Around(spoil)] if name == "one rank not finite" else [])]
    with broken(name):
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
    with tiny_encoder():
        return {name: train(layout, name, rank) for name in RUNS[layout]}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Returns what each rank of a layout has after all of its scenarios; every layout runs once."""
    known: dict[Layout, list[dict[str, Any]]] = {SINGLE: [train_all(SINGLE, 0)]}

    def of(layout: Layout) -> list[dict[str, Any]]:
        if layout not in known:
            known[layout] = spawn(partial(train_all, layout), layout.world_size, tmp_path_factory.mktemp("ranks"))
        return known[layout]

    return of


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> tuple[float, str]:
    assert a.keys() == b.keys()
    return max((float((a[name] - b[name]).abs().max()), name) for name in a)


@pytest.mark.parametrize(("layout", "name"), COMPARED, ids=str)
def test_weights_and_centers_are_those_of_one_process(results, layout, name):
    (single,) = results(SINGLE)
    expected = single[name]["weights"]
    for rank in results(layout):
        assert rank[name]["global_step"] == single[name]["global_step"] == NUM_STEPS
        difference, where = largest_difference(rank[name]["weights"], expected)
        assert difference < TOLERANCE, f"{where} differs by {difference:.1e}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_run_moved_what_is_compared(results, name):
    (single,) = results(SINGLE)
    with tiny_encoder():
        start = tiny_arl(**options_of(name)).state_dict()
    networks = ["student.encoder", "student.decoder", "teacher.encoder", "discriminator"]
    distilled = options_of(name).get("self_distillation", {})
    networks += ["student.head", "teacher.head"] if distilled.get("enabled", True) else []
    networks += ["distillation.cls_targets.center"] if not distilled.keys() & {"enabled", "targets"} else []
    networks += ["distillation.patch_targets.center"] if name == "everything" else []
    for network in networks:
        moved = [float((value - start[n]).abs().max()) for n, value in single[name]["weights"].items() if network in n]
        assert max(moved) > 1e5 * TOLERANCE, network


@pytest.mark.parametrize(("layout", "name"), [each for each in COMPARED if each[1] != "one rank not finite"], ids=str)
def test_lambda_losses_and_norms_are_those_of_the_global_batch(results, layout, name):
    # The teacher's statistics are means over the ranks by design; accuracies are kept in float32.
    (single,) = results(SINGLE)
    accumulated = options_of(name)["optimization"].get("accumulate_batches", 1)
    for rank in results(layout):
        pairs = list(zip(rank[name]["metrics"], single[name]["metrics"], strict=True))[accumulated - 1 :: accumulated]
        for found, expected in pairs:
            assert found.keys() == expected.keys()
            for metric, value in expected.items():
                if not metric.startswith("train/teacher/"):
                    limits = {"abs": 1e-6} if metric.endswith("accuracy") else {"rel": TOLERANCE, "abs": TOLERANCE}
                    assert found[metric] == pytest.approx(value, **limits), metric
        assert found["train/adaptive_weight"] > 0


@pytest.mark.parametrize(("layout", "name"), COMPARED, ids=str)
def test_learning_rates_scale_with_all_ranks(results, layout, name):
    (single,) = results(SINGLE)
    for rank in results(layout):
        assert rank[name]["learning_rates"] == pytest.approx(single[name]["learning_rates"], rel=1e-12)


@pytest.mark.parametrize("layout", [SINGLE, DDP_2, FSDP2], ids=str)
def test_all_ranks_skip_what_one_rank_cannot_use(results, layout):
    for rank in results(layout):
        assert rank["one rank not finite"]["nonfinite_steps"] == 1


@pytest.mark.parametrize(("sharded", "replicated"), [(FSDP2, DDP_2), (HSDP, DDP_4)], ids=str)
def test_koleo_is_the_same_however_weights_lie(results, sharded, replicated):
    expected = results(replicated)[0]["koleo"]
    for rank in results(sharded):
        difference, where = largest_difference(rank["koleo"]["weights"], expected["weights"])
        assert difference < TOLERANCE, f"{where} differs by {difference:.1e}"
        losses = [metrics["train/loss/koleo"] for metrics in rank["koleo"]["metrics"][1::2]]
        assert losses == pytest.approx([metrics["train/loss/koleo"] for metrics in expected["metrics"][1::2]], rel=1e-9)


@pytest.mark.parametrize("name", ["own lambda", "own gradients"])
def test_the_comparison_notices_what_is_silently_wrong(results, name):
    (single,) = results(SINGLE)
    for rank in results(DDP_2):
        difference, _ = largest_difference(rank[name]["weights"], single["everything"]["weights"])
        assert difference > 1e4 * TOLERANCE
