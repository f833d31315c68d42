import os
import subprocess
import sys

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from arl_lightning.distributed import slurm
from arl_lightning.errors import UserError

STEP = {
    "SLURM_JOB_ID": "912345",
    "SLURM_JOB_NAME": "pretrain",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURMD_NODENAME": "node1",
    "SLURM_NODELIST": "node[0-1]",
}


@pytest.fixture(autouse=True)
def _outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM", "MASTER_", "TORCHELASTIC")):
            monkeypatch.delenv(name)


@pytest.fixture
def step(monkeypatch):
    def enter(**changes: str | None) -> None:
        for name, value in {**STEP, **changes}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    monkeypatch.setenv("MASTER_ADDR", "")  # what Lightning sets is taken back with it
    monkeypatch.setenv("MASTER_PORT", "")
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.delenv("MASTER_PORT")
    return enter


def test_a_place_is_what_srun_says(step):
    step()
    assert slurm.place() == slurm.Place(
        rank=5,
        world_size=8,
        local_rank=1,
        node_rank=1,
        num_nodes=2,
        host="node1",
        main_address="node0",
        main_port=15000 + 2345,
    )


@pytest.mark.parametrize(
    "nodes", ["node[0-7]", "gpu01,gpu[03-05]", "n1", "a b c", "h[5,7-9]", "cn[0012]", "gpu[03-05],login1", "r2-n[4,6]"]
)
def test_rank_0_listens_where_lightning_looks_for_it(step, nodes):
    step(SLURM_NODELIST=nodes)
    ours = slurm.place()
    lightnings = SLURMEnvironment(auto_requeue=False)
    assert (ours.main_address, ours.main_port) == (lightnings.main_address, lightnings.main_port)
    assert (ours.rank, ours.world_size) == (lightnings.global_rank(), lightnings.world_size())
    assert (ours.local_rank, ours.node_rank) == (lightnings.local_rank(), lightnings.node_rank())


@pytest.mark.parametrize(
    ("nodes", "first"), [("rack[1-2]n[03-05]", "rack1n03"), ("c[1,3]-gpu,c9", "c1-gpu"), ("n[1-2]-ib0", "n1-ib0")]
)
def test_brackets_in_the_middle_of_a_name(step, nodes, first):
    step(SLURM_NODELIST=nodes)
    assert slurm.place().main_address == first
    slurm.cluster_environment()
    assert SLURMEnvironment(auto_requeue=False).main_address == first


def test_a_step_on_some_of_the_nodes_meets_at_its_own_first(step):
    step(SLURM_NODELIST="node[0-7]", SLURM_STEP_NODELIST="node[4-5]")
    assert slurm.place().main_address == "node4"


@pytest.mark.parametrize("address", ["localhost", "127.0.1.1", "::1"])
def test_localhost_is_refused_on_two_nodes_and_serves_on_one(step, address):
    step(MASTER_ADDR=address)
    with pytest.raises(UserError, match=rf"MASTER_ADDR: {address} .* unset"):
        slurm.place()
    step(MASTER_ADDR="127.0.0.1", SLURM_STEP_NUM_NODES="1")
    assert slurm.place().main_address == "127.0.0.1"


def test_tasks_of_srun_are_told_from_a_batch_script_and_from_shells(step):
    assert not slurm.in_slurm_step()
    step()
    assert slurm.in_slurm_step()
    step(SLURM_STEP_ID=None)  # the batch script
    assert not slurm.in_slurm_step()
    step(SLURM_STEP_ID="4294967290")  # salloc's shell on the node
    assert not slurm.in_slurm_step()
    step(SLURM_JOB_NAME="bash", SLURM_STEP_NUM_TASKS="1")  # srun --pty bash
    assert not slurm.in_slurm_step()
    step(SLURM_JOB_NAME="interactive")  # srun within salloc
    assert slurm.in_slurm_step()


def test_without_srun_a_process_in_a_job_is_alone(step):
    step(SLURM_STEP_ID=None)
    assert SLURMEnvironment.detect()  # left to itself, Lightning waits for 8 tasks
    (plugin,) = slurm.cluster_environment()
    assert type(plugin) is LightningEnvironment
    assert (slurm.place().rank, slurm.place().world_size) == (0, 1)


def test_lightning_keeps_its_hands_off_the_queue(step):
    step()
    (plugin,) = slurm.cluster_environment()
    assert isinstance(plugin, SLURMEnvironment)
    assert not plugin.auto_requeue
    step(SLURM_NTASKS_PER_NODE=None)
    with pytest.raises(UserError, match="--ntasks-per-node"):
        slurm.cluster_environment()


def test_torchrun_and_plain_processes_are_left_to_lightning(step, monkeypatch):
    assert slurm.cluster_environment() == []
    step(TORCHELASTIC_RUN_ID="1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert slurm.cluster_environment() == []


def test_a_job_of_an_array_has_both_numbers(step):
    assert slurm.job_id() is None
    step(SLURM_RESTART_COUNT="3")
    assert (slurm.job_id(), slurm.restart_count()) == ("912345", 3)
    step(SLURM_ARRAY_JOB_ID="70", SLURM_ARRAY_TASK_ID="4")
    assert slurm.job_id() == "70_4"


# ---------------------------------------------------------------- scontrol; the answers are those of Slurm 22.05


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Stand a script in for scontrol; returns a function that sets its answers and one that tells what was asked."""
    program, asked = tmp_path / "scontrol", tmp_path / "asked"

    def answer(shown: str, requeue: str = "true", show: str = "true") -> None:
        program.write_text(
            f'#!/bin/sh\necho "$*" >>{asked}\nif [ "$1" = requeue ]; then {requeue}; else echo "{shown}"; {show}; fi\n'
        )
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return answer, lambda: asked.read_text().splitlines()


def shown(state: str, reason: str = "None", batch: int = 1) -> str:
    return f"JobId=7 JobName=a=b JobState={state} Reason={reason} Requeue=1 Restarts=0 BatchFlag={batch} ExitCode=0:0"


@pytest.mark.parametrize(
    ("state", "reason", "goes_back"),
    [
        ("RUNNING", "None", True),  # scancel --signal
        ("COMPLETING", "TimeLimit", True),
        ("TIMEOUT", "TimeLimit", True),
        ("COMPLETING", "None", False),  # scancel: it looks like this until its processes have ended
        ("CANCELLED", "None", False),
        ("PREEMPTED", "None", False),  # Slurm does it
    ],
)
def test_a_cancelled_job_stays_so_and_others_go_back(scontrol, state, reason, goes_back):
    answer, asked = scontrol
    answer(shown(state, reason))
    said = slurm.send_back("7")
    assert ("requeue 7" in asked()) == goes_back
    assert ("back in the queue" in said) == goes_back


def test_a_shell_on_a_node_is_never_requeued(scontrol):
    answer, asked = scontrol
    answer(shown("RUNNING", batch=0))
    assert slurm.send_back("7") == "go on with --ckpt_path last"
    assert asked() == ["-o show job 7"]


def test_a_refused_requeue_says_why_and_what_to_do(scontrol):
    answer, asked = scontrol
    answer(shown("RUNNING"), "echo 'Requested operation is presently disabled for job 7' >&2; exit 1")
    said = slurm.send_back("7")
    assert "(Requested operation is presently disabled for job 7): submit it again" in said
    assert asked().count("requeue 7") == 1


def test_a_controller_that_does_not_answer_is_asked_again(scontrol, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    answer, asked = scontrol
    mark = tmp_path / "mark"
    answer(
        shown("RUNNING"),
        f"[ -e {mark} ] || {{ touch {mark}; echo 'Unable to contact slurm controller' >&2; exit 1; }}",
    )
    assert "is back in the queue" in slurm.send_back("7")
    assert asked().count("requeue 7") == 2


def test_where_slurm_says_nothing_the_job_is_requeued_all_the_same(scontrol, monkeypatch):
    answer, _ = scontrol
    answer("", show="exit 1")
    assert "is back in the queue" in slurm.send_back("7")
    monkeypatch.setenv("PATH", "")
    assert slurm.job_state("7") is None
    assert slurm.requeue("7") == "no scontrol here"


def test_it_needs_no_torch():
    code = "import sys, arl_lightning.cli; from arl_lightning.distributed import slurm; slurm.place()"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)
