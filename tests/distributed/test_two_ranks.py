"""Two gloo processes with half of each batch train what one process trains with all of it.

Only this comparison catches weights that are not synchronised and a lambda that is each rank's own: both leave every
loss finite and falling, the second even leaves the ranks alike.
"""

import logging
import os
import socket
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from lightning.pytorch.strategies import DDPStrategy
from tiny_arl import Recorder, fit, part, random_batch, tiny_arl, tiny_encoder

WORLD_SIZE, HALF, NUM_STEPS = 2, 3, 8
TIMEOUT = 180.0
TOLERANCE = 1e-9

# Gradients are larger than `clip`: a norm that is not the global one shows too.
SCENARIOS: dict[str, dict[str, dict[str, Any]]] = {
    "centering": {"optimization": {"clip": 0.5}},
    "sinkhorn": {
        "self_distillation": {"targets": "sinkhorn", "patch_weight": 0.5},
        "adversarial": {"start_share": 0.25},
    },
    "accumulation": {"optimization": {"accumulate_batches": 2, "clip": 0.5}},
    "full view, normalised pixels": {
        "self_distillation": {"student_view": "full"},
        "reconstruction": {"norm_pix_loss": True},
        "adversarial": {"loss": "hinge", "update_every": 2},
    },
    "pixels only": {"self_distillation": {"enabled": False}},
}


def options_of(name: str) -> dict[str, dict[str, Any]]:
    # A fifth of the usual rate: AdamW turns rounding errors of gradients that are zero in truth into steps of its size.
    options = {"optimization": {}, **SCENARIOS[name]}
    options["optimization"] = {"base_lr": 0.01, "discriminator_base_lr": 0.01, **options["optimization"]}
    return options


def train(name: str, rank: int | None) -> dict[str, Any]:
    """Train one scenario on a rank's halves, or on whole batches in one process."""
    options = options_of(name)
    num_batches = NUM_STEPS * options["optimization"].get("accumulate_batches", 1)
    batches = [random_batch(WORLD_SIZE * HALF, seed) for seed in range(num_batches)]
    arguments: dict[str, Any] = {}
    if rank is not None:
        batches = [part(batch, rank * HALF, (rank + 1) * HALF) for batch in batches]
        strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=60))
        arguments = {"strategy": strategy, "devices": WORLD_SIZE, "use_distributed_sampler": False}
    module, recorder = tiny_arl(len(batches[0]["key"]), **options), Recorder()
    trainer = fit(module, batches, NUM_STEPS, [recorder], **arguments)
    assert trainer.world_size == (1 if rank is None else WORLD_SIZE)
    return {
        "weights": dict(module.state_dict()),
        "metrics": recorder.metrics,
        "global_step": trainer.global_step,
        "learning_rates": [group["lr"] for group in trainer.optimizers[0].param_groups],
    }


def run_rank(rank: int, port: int, folder: str) -> None:
    """Train every scenario as one of the ranks and leave what came out in a file."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tiny_encoder():
        results = {name: train(name, rank) for name in SCENARIOS}
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    """What each of two ranks has after all scenarios."""
    folder = tmp_path_factory.mktemp("ranks")
    context = torch.multiprocessing.start_processes(
        run_rank, (free_port(), str(folder)), WORLD_SIZE, join=False, start_method="spawn"
    )
    deadline = time.monotonic() + TIMEOUT
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, f"{WORLD_SIZE} ranks did not end in {TIMEOUT:.0f} s"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD_SIZE)]


@pytest.fixture(scope="module")
def single() -> dict[str, Any]:
    """What one process has after all scenarios."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tiny_encoder():
        results = {name: train(name, None) for name in SCENARIOS}
    torch.set_num_threads(num_threads)
    return results


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> tuple[float, str]:
    assert a.keys() == b.keys()
    return max((float((a[name] - b[name]).abs().max()), name) for name in a)


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_weights_are_those_of_one_process(ranks, single, name):
    expected = single[name]["weights"]
    networks = {weight.partition(".")[0] for weight in expected}
    assert networks >= {"student", "teacher", "discriminator"}
    for rank in ranks:
        assert rank[name]["global_step"] == single[name]["global_step"] == NUM_STEPS
        difference, where = largest_difference(rank[name]["weights"], expected)
        assert difference < TOLERANCE, f"{where} differs by {difference:.1e}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_run_moved_what_is_compared(single, name):
    with tiny_encoder():
        start = tiny_arl(**options_of(name)).state_dict()
    networks = ["student.encoder", "student.decoder", "teacher.encoder", "discriminator"]
    distilled = options_of(name).get("self_distillation", {})
    networks += ["student.head", "teacher.head"] if distilled.get("enabled", True) else []
    networks += ["distillation.cls_targets.center"] if not distilled.keys() & {"enabled", "targets"} else []
    for network in networks:
        moved = [float((value - start[n]).abs().max()) for n, value in single[name]["weights"].items() if network in n]
        assert max(moved) > 1e5 * TOLERANCE, network


@pytest.mark.parametrize("name", SCENARIOS)
def test_lambda_losses_and_norms_are_those_of_the_global_batch(ranks, single, name):
    # The teacher's statistics are means over the ranks by design.
    accumulated = options_of(name)["optimization"].get("accumulate_batches", 1)
    for rank in ranks:
        pairs = list(zip(rank[name]["metrics"], single[name]["metrics"], strict=True))[accumulated - 1 :: accumulated]
        assert len(pairs) == NUM_STEPS
        for found, expected in pairs:
            assert found.keys() == expected.keys()
            for metric, value in expected.items():
                if not metric.startswith("train/teacher/"):
                    assert found[metric] == pytest.approx(value, rel=1e-7), metric
        assert found["train/adaptive_weight"] > 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_learning_rates_scale_with_all_ranks(ranks, single, name):
    for rank in ranks:
        assert rank[name]["learning_rates"] == pytest.approx(single[name]["learning_rates"], rel=1e-12)
