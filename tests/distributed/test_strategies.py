from datetime import timedelta

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from arl_lightning.distributed.fsdp2 import FSDP2Strategy
from arl_lightning.distributed.options import Distributed
from arl_lightning.distributed.strategies import build_strategy
from arl_lightning.errors import UserError


def test_ddp_gets_the_backend_and_a_timeout_behind_the_watchdogs():
    strategy = build_strategy("ddp", Distributed(timeout_seconds=30, backend="gloo"))
    assert isinstance(strategy, DDPStrategy)
    assert (strategy._timeout, strategy.process_group_backend) == (timedelta(seconds=120), "gloo")
    assert strategy._ddp_kwargs == {"gradient_as_bucket_view": True}  # no find_unused_parameters, no static_graph


def test_fsdp2_shards_over_all_ranks_and_hsdp_within_a_node():
    options = Distributed(reshard_after_forward=False)
    for name, replicas in (("fsdp2", 1), ("hsdp", 8)):
        strategy = build_strategy(name, options, num_nodes=8)
        assert isinstance(strategy, FSDP2Strategy)
        assert (strategy.replicas, strategy.reshard_after_forward, strategy.cpu_offload) == (replicas, False, False)


def test_offloaded_gradients_are_summed_on_the_host():
    strategy = build_strategy("fsdp2", Distributed(cpu_offload=True))
    assert strategy.process_group_backend == "cuda:nccl,cpu:gloo"


@pytest.mark.parametrize("name", ["auto", "single_device"])
def test_a_single_devices_names_are_lightnings(name):
    assert build_strategy(name, Distributed()) == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fsdp", "19626, 19685"),
        ("fsdp_cpu_offload", "use fsdp2"),
        ("deepspeed_stage_3", "one network and one loss"),
        ("model_parallel", "use fsdp2"),
        ("ddp_find_unused_parameters_true", "not one of auto, ddp, fsdp2, hsdp"),
    ],
)
def test_other_strategies_are_refused_with_the_reason(name, reason):
    with pytest.raises(UserError, match=f"trainer.strategy: .*{reason}"):
        build_strategy(name, Distributed())


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"distributed\.cpu_offload: needs sharded weights"):
        build_strategy("ddp", Distributed(cpu_offload=True))
    with pytest.raises(UserError, match=r"distributed\.timeout_seconds: 0 must be above 0"):
        Distributed(timeout_seconds=0)


def test_what_cannot_be_laid_out_is_refused(monkeypatch):
    strategy = FSDP2Strategy(replicas=3, cpu_offload=True)
    monkeypatch.setattr(FSDP2Strategy, "world_size", 4)
    monkeypatch.setattr(FSDP2Strategy, "root_device", torch.device("cpu"))
    with pytest.raises(UserError, match=r"distributed\.cpu_offload: only with GPUs"):
        strategy.setup_environment()
    strategy.cpu_offload = False
    with pytest.raises(UserError, match="4 ranks cannot form 3 equal groups"):
        strategy.setup_environment()
