"""The exchange of gradients in a whole run on two ranks, replicated and sharded."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from several_ranks import spawn
from tiny_arl import Recorder, fit, random_batch, tiny_arl, tiny_encoder
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from arl_lightning.distributed.fsdp2 import FSDP2Strategy
from arl_lightning.training.communication import Communication
from arl_lightning.training.setting import gather_setting

WORLD_SIZE, NUM_STEPS, ACCUMULATED = 2, 4, 2
SHARE = "train/communication_share"


class Sharded(pl.LightningModule):
    """A network that is sharded, and logs nothing."""

    def configure_model(self) -> None:
        if not hasattr(self, "network"):
            self.network = nn.Sequential(nn.Linear(24, 48), nn.Linear(48, 24))
            fully_shard(self.network, mesh=self.device_mesh)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.network(batch["images"]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def replicated_run(rank: int) -> dict[str, Any]:
    module = tiny_arl(3, optimization={"accumulate_batches": ACCUMULATED})
    communication, recorder = Communication(), Recorder()
    batches = [random_batch(3, seed=10 * rank + number) for number in range(NUM_STEPS * ACCUMULATED)]
    strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=60))
    options: dict[str, Any] = {"strategy": strategy, "devices": WORLD_SIZE, "use_distributed_sampler": False}
    fit(module, batches, NUM_STEPS, [communication, recorder], **options)
    return {
        "gradients": communication.exchanges.num_gradients,
        "trained": sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad),
        "shares": [metrics.get(SHARE) for metrics in recorder.metrics],
    }


def sharded_run() -> dict[str, Any]:
    recorder = Recorder()
    batches = [{"images": torch.ones(2, 24), "key": ["a", "b"]}] * NUM_STEPS
    strategy = FSDP2Strategy(timeout=timedelta(seconds=60))
    options: dict[str, Any] = {"strategy": strategy, "devices": WORLD_SIZE, "precision": "32-true"}
    fit(Sharded(), batches, NUM_STEPS, [Communication(), recorder], **options)
    return {"shares": [metrics.get(SHARE) for metrics in recorder.metrics]}


def run_rank(rank: int) -> dict[str, Any]:
    with tiny_encoder():
        replicated = replicated_run(rank)
    setting = gather_setting(torch.device("cpu"), num_workers=rank).plain()
    return {"replicated": replicated, "sharded": sharded_run(), "setting": setting}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    return spawn(run_rank, WORLD_SIZE, tmp_path_factory.mktemp("ranks"))


def test_every_gradient_is_averaged_once_a_step(ranks):
    for rank in ranks:
        assert rank["replicated"]["trained"] > 0
        assert rank["replicated"]["gradients"] == NUM_STEPS * rank["replicated"]["trained"]


@pytest.mark.parametrize("layout", ["replicated", "sharded"])
def test_the_share_is_logged_after_the_first_batch(ranks, layout):
    for rank in ranks:
        first, *others = rank[layout]["shares"]
        assert first is None
        assert all(0 <= share < 1 for share in others)
        assert others[-1] > 0


def test_all_ranks_learn_the_same_setting(ranks):
    first, second = (rank["setting"] for rank in ranks)
    assert len(first["processes"]) == WORLD_SIZE
    assert first["backend"] == "gloo"
    assert (first.pop("num_workers"), second.pop("num_workers")) == (0, 1)  # given, not gathered
    assert first == second


def test_one_process_exchanges_and_logs_nothing():
    communication, recorder = Communication(), Recorder()
    with tiny_encoder():
        fit(tiny_arl(2), [random_batch(2)], 2, [communication, recorder])
    assert communication.exchanges is None
    assert all(metrics and SHARE not in metrics for metrics in recorder.metrics)


class FakeClock:
    """Seconds that pass by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class FakeExchanges:
    """Says how long exchanges took."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds

    def take(self) -> float:
        return self.seconds.pop(0)


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def log(self, name: str, value: Tensor, batch_size: int) -> None:
        assert name == SHARE
        self.values.append(float(value))


def test_the_share_is_that_of_running_means(monkeypatch):
    clock, log = FakeClock(), Log()
    monkeypatch.setattr("arl_lightning.training.communication.time", clock)
    communication = Communication(smoothing=0.5)
    communication.exchanges = FakeExchanges([9.0, 1.0, 2.0, 50.0, 0.0])
    for step, seconds in enumerate([20.0, 4.0, 8.0, 100.0, 2.0]):
        if step == 3:
            communication.on_validation_end(None, None)
        clock.now += seconds
        communication.on_train_batch_end(None, log, None, None, step)
    # Means: (4, 1), then (6, 1.5), then, without the batch after validation, (4, 0.75).
    assert log.values == pytest.approx([1 / 4, 1.5 / 6, 0.75 / 4])


@pytest.mark.parametrize(
    ("ordered_sum", "device", "expected"),
    [(None, "cpu", True), (None, "cuda", False), (False, "cpu", False), (True, "cuda", True)],
)
def test_sums_are_ordered_on_cpus_unless_said_otherwise(monkeypatch, ordered_sum, device, expected):
    given = {}
    module = "arl_lightning.training.communication"
    monkeypatch.setattr(f"{module}.DistributedDataParallel", nn.Identity)
    monkeypatch.setattr(f"{module}.register", lambda network, exchanges, ordered: given.update(ordered=ordered))
    strategy = SimpleNamespace(root_device=torch.device(device), model=nn.Identity())
    Communication(ordered_sum).on_fit_start(SimpleNamespace(world_size=4, strategy=strategy), None)
    assert given == {"ordered": expected}
