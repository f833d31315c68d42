from datetime import timedelta
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from tiny_arl import tiny_arl

from arl_lightning.distributed.fsdp2 import FSDP2Strategy
from arl_lightning.distributed.options import Distributed
from arl_lightning.errors import UserError
from arl_lightning.pretraining.recipe import build_cli
from arl_lightning.pretraining.reports import _strategy as said
from arl_lightning.pretraining.trainer import check_strategy, chosen_strategy

ONE = {"strategy": "auto", "accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "32-true"}

CLASS = '{"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"}'


@pytest.mark.parametrize(
    "ranks",
    [{"devices": 2}, {"devices": "2"}, {"num_nodes": 2}, {"accelerator": "cuda", "devices": [0, 1]}],
)
def test_several_ranks_that_name_no_strategy_are_ddp_as_the_recipe_wants_it(ranks):
    strategy = chosen_strategy({**ONE, **ranks}, Distributed(timeout_seconds=30, backend="gloo"))
    assert type(strategy) is DDPStrategy
    assert (strategy._timeout, strategy.process_group_backend) == (timedelta(seconds=120), "gloo")


@pytest.mark.parametrize("devices", [{"devices": 1}, {"devices": "auto"}, {"accelerator": "cuda", "devices": [3]}])
def test_one_process_needs_no_strategy(devices):
    assert chosen_strategy({**ONE, **devices}, Distributed()) == "auto"


def test_a_class_of_ours_is_taken_as_it_is():
    given = FSDP2Strategy()
    assert chosen_strategy({**ONE, "strategy": given, "devices": 2}, Distributed()) is given


def test_precisions_are_compared_in_full():
    for precision in ("64", 64, "64-true"):
        with pytest.raises(UserError, match=r"trainer\.precision: 64-true"):
            check_strategy({**ONE, "strategy": "fsdp2", "precision": precision}, Distributed())


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_without_gpus_nothing_is_offloaded(monkeypatch, accelerator):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    given = {**ONE, "strategy": "fsdp2", "accelerator": accelerator}
    with pytest.raises(UserError, match=r"distributed\.cpu_offload: only with GPUs"):
        check_strategy(given, Distributed(cpu_offload=True))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--trainer.strategy=fsdp2", "--trainer.precision=64-true"], "trainer.precision: 64-true does not go with"),
        ([f"--trainer.strategy={CLASS}"], "trainer.strategy: ModelParallelStrategy splits no layer"),
        (["--distributed.backend=nccl"], "distributed.backend: nccl needs GPUs"),
        (["--distributed.backend=foo"], "distributed.backend"),
        (["--distributed.timeout_seconds=.inf"], "distributed.timeout_seconds: inf must lie between"),
    ],
)
def test_the_trainer_is_not_built_for_what_is_refused(tmp_path, words, line):
    with pytest.raises(UserError, match=line):
        build_cli([f"--run.folder={tmp_path}", f"--data.shards={tmp_path}", "--trainer.accelerator=cpu", *words])


def test_the_module_refuses_a_trainer_whose_ranks_would_train_alone():
    module = tiny_arl()
    for strategy in (ModelParallelStrategy(), FSDPStrategy()):
        module._trainer = SimpleNamespace(strategy=strategy)
        with pytest.raises(UserError, match=r"trainer\.strategy: "):
            module.setup("fit")
    module._trainer = SimpleNamespace(strategy=DDPStrategy())
    module.setup("fit")


@pytest.mark.parametrize(
    ("strategy", "world_size", "line"),
    [
        (DDPStrategy(), 4, "DDP"),
        (FSDP2Strategy(), 4, "FSDP2, 4 shards"),
        (FSDP2Strategy(replicas=2), 4, "FSDP2, 2 shards x 2 replicas"),
        (FSDP2Strategy(), 1, "one process"),
        (ModelParallelStrategy(), 4, "ModelParallelStrategy"),
    ],
)
def test_the_report_names_what_runs(strategy, world_size, line):
    assert said(SimpleNamespace(strategy=strategy, world_size=world_size)) == line
