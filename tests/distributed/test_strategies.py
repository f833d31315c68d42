import math
from contextlib import nullcontext
from datetime import timedelta

import pytest
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from arl_lightning.distributed.fsdp2 import FSDP2Strategy, refuse_spread_groups
from arl_lightning.distributed.options import Distributed
from arl_lightning.distributed.strategies import build_strategy, check_options, refuse_strategy
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


def test_a_single_process_is_lightnings():
    assert build_strategy("auto", Distributed()) == "auto"


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


class OwnStrategy(DDPStrategy):
    """May do anything with gradients."""


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (FSDPStrategy, "FSDPStrategy does not synchronise gradients.*use fsdp2"),
        (ModelParallelStrategy, "ModelParallelStrategy splits no layer.*use fsdp2"),
        (OwnStrategy, "'OwnStrategy' is not one of auto, ddp, fsdp2, hsdp"),
    ],
)
def test_classes_that_would_train_every_rank_alone_are_refused(given, reason):
    with pytest.raises(UserError, match=f"trainer.strategy: {reason}"):
        refuse_strategy(given())


def test_our_classes_are_taken():
    for given in (DDPStrategy(find_unused_parameters=True), FSDP2Strategy(), SingleDeviceStrategy()):
        refuse_strategy(given)


@pytest.mark.parametrize(
    ("strategy", "options", "on_gpus", "precision", "words"),
    [
        ("ddp", {"cpu_offload": True}, True, "32-true", "distributed.cpu_offload: needs sharded weights"),
        ("auto", {"cpu_offload": True}, True, "32-true", "distributed.cpu_offload: needs sharded weights"),
        ("fsdp2", {"cpu_offload": True}, False, "32-true", "distributed.cpu_offload: only with GPUs"),
        (FSDP2Strategy(cpu_offload=True), {}, False, "32-true", "distributed.cpu_offload: only with GPUs"),
        ("ddp", {"backend": "nccl"}, False, "32-true", "distributed.backend: nccl needs GPUs"),
        ("ddp", {"backend": "cuda:nccl,cpu:gloo"}, False, "32-true", "distributed.backend: cuda:nccl,cpu:gloo needs"),
        ("hsdp", {"cpu_offload": True, "backend": "nccl"}, True, "32-true", "distributed.backend: nccl cannot sum"),
        ("fsdp2", {}, False, "64-true", "trainer.precision: 64-true does not go with sharded"),
        (FSDP2Strategy(), {}, True, "64-true", "trainer.precision: 64-true does not go with sharded"),
    ],
)
def test_options_that_do_not_fit_are_refused(strategy, options, on_gpus, precision, words):
    with pytest.raises(UserError, match=words):
        check_options(strategy, Distributed(**options), on_gpus=on_gpus, precision=precision)


def test_options_that_fit_are_taken():
    check_options("fsdp2", Distributed(cpu_offload=True), on_gpus=True, precision="bf16-mixed")
    check_options("ddp", Distributed(backend="gloo"), on_gpus=False, precision="64-true")
    check_options("hsdp", Distributed(backend="nccl"), on_gpus=True, precision="32-true")


@pytest.mark.parametrize("seconds", [0, -1, 1e-7, math.inf, math.nan])
def test_a_wait_must_have_an_end(seconds):
    with pytest.raises(UserError, match=r"distributed\.timeout_seconds: .* must lie between 1 and 604800"):
        Distributed(timeout_seconds=seconds)


def test_what_cannot_be_laid_out_is_refused(monkeypatch):
    strategy = FSDP2Strategy(replicas=3)
    monkeypatch.setattr(FSDP2Strategy, "world_size", 4)
    with pytest.raises(UserError, match="4 ranks cannot form 3 equal groups"):
        strategy.setup_environment()


@pytest.mark.parametrize(
    ("nodes", "replicas", "fits"),
    [
        ([0, 0, 1, 1], 2, True),
        ([0, 0, 0, 0], 2, True),
        ([0, 1, 0, 1], 2, False),
        ([0, 0, 0, 1, 1, 1], 2, True),
        ([0, 0, 1, 1, 2, 2], 2, False),
    ],
)
def test_a_group_that_shards_within_a_node_lies_on_one(nodes, replicas, fits):
    with nullcontext() if fits else pytest.raises(UserError, match=r"trainer\.strategy: hsdp .* node"):
        refuse_spread_groups(nodes, replicas)
