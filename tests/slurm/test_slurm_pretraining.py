"""Pretraining by the shipped scripts, stopped in every way that a cluster has: it ends as if nothing had happened.

Ranks on a CPU exchange with gloo. While a brake is on, every shard is seconds away: the moments at which a job is
stopped then fall into its steps, and its ranks do not fight for cores.
"""

import os
import random
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from slurm_jobs import TINY, Job, Submitter, call

NUM_SIGNALS = 20 if os.environ.get("FULL") else 3
NUM_STEPS = 24 + 2 * NUM_SIGNALS  # each start takes a step or two before it stops
BRAKED_SECONDS = 3.0  # a step takes
SHARDS_A_STEP = 2  # of each rank: batches of 4 from shards of 2
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")
FOUR_RANKS = ("--nodes=2", "--ntasks-per-node=2")  # three or more do not sum in any order alike


@dataclass
class Brake:
    """Shards that are slow to come as long as a file lies beside them."""

    corpus: Path
    file: Path

    def __post_init__(self) -> None:
        self.file.touch()

    @property
    def shards(self) -> str:
        """The corpus' address."""
        pause = BRAKED_SECONDS / SHARDS_A_STEP
        return f"pipe:if [ -e {self.file} ]; then sleep {pause}; fi; cat {self.corpus}/{{}}"

    def release(self) -> None:
        """Let the rest of the run go as fast as it can."""
        self.file.unlink()


@pytest.fixture
def brake(corpus: Path, shared: Path) -> Brake:
    """A brake of the test's own."""
    return Brake(corpus, shared / f"brake-{time.monotonic_ns()}")


def words(folder: Path, shards: str | Path, num_steps: int = NUM_STEPS) -> list[str]:
    keys = {"data.shards": shards, "run.folder": folder, "trainer.max_steps": num_steps}
    return [*TINY, *(word for key, value in keys.items() for word in (f"--{key}", str(value)))]


def assert_alike(folder: Path, other: Path) -> None:
    """Compare weights, moments and counters of two runs' last checkpoints, bit for bit."""
    ends = [torch.load(each / "checkpoints/last.ckpt", weights_only=True) for each in (folder, other)]
    for name in ("global_step", "state_dict", "optimizer_states"):
        assert differing(ends[0][name], ends[1][name], name) == []


def differing(one: Any, other: Any, name: str) -> list[str]:
    """Name what is not the same in two nests of dictionaries and lists."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differing(one[key], other[key], f"{name}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            found
            for key, pair in enumerate(zip(one, other, strict=True))
            for found in differing(*pair, f"{name}.{key}")
        ]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    return [] if one == other else [name]


@pytest.fixture(scope="module")
def uninterrupted(shared: Path, corpus: Path) -> Path:
    """A run of two ranks on two nodes that nothing happens to."""
    submit = Submitter(shared)
    job = submit("pretrain_64gpu.sh", *TWO_NODES, words=words(shared / "uninterrupted", corpus))
    assert job.wait() == "COMPLETED", job.text
    assert job.restarts == 0
    return shared / "uninterrupted"


@pytest.fixture(scope="module")
def whole(shared: Path, corpus: Path) -> Job:
    """A run of four ranks on two nodes that nothing happens to, by a script that submits itself."""
    submit = Submitter(shared)
    job = submit("pretrain_64gpu.sh", *FOUR_RANKS, words=words(shared / "whole", corpus), by_itself=True)
    assert job.wait() == "COMPLETED", job.text
    return job


def test_two_nodes_of_two_ranks_train_and_finish(whole, shared):
    job = whole
    assert job.restarts == 0
    assert torch.load(shared / "whole/checkpoints/last.ckpt", weights_only=True)["global_step"] == NUM_STEPS
    assert "global batch    4 images x 4 ranks x 1 accumulated = 16" in job.text
    assert re.search(r"^0: nodes +2 nodes x 2 ranks on .*: (\S+)$", job.text, re.M)[1] == job.told()["NodeList"]
    assert job.text.splitlines()[-1].startswith(f"job {job.number}: done")


def test_a_run_that_its_time_limit_stops_ends_as_if_it_had_not(submit, shared, brake, whole):
    folder = shared / "limited"
    job = submit("pretrain_64gpu.sh", *FOUR_RANKS, "--time=60", "--signal=USR1@40", words=words(folder, brake.shards))
    job.wait_until(steps_are_taken(job, 1), "first step")
    # Limits are whole minutes, and looked at each half minute: the signal needs one such look before the limit.
    limit = int(seconds_run(job) + 35) // 60 + 1
    call("scontrol", "update", f"JobId={job.number}", f"TimeLimit={limit}")
    job.wait_until(lambda: job.restarts == 1, "restart", 150)
    call("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    brake.release()
    assert job.wait() == "COMPLETED"
    assert job.restarts == 1
    assert "stopped by SIGUSR1 at step" in job.text
    assert_alike(folder, shared / "whole")


def steps_are_taken(job: Job, start: int) -> Callable[[], bool]:
    """Whether the ranks of this start of a job are at work."""
    return lambda: len(re.findall(r"pretrain \d+/\d+ ", job.text.partition(f", start {start},")[2])) > 0


def seconds_run(job: Job) -> float:
    """Return how long this start of a job has run."""
    hours, minutes, seconds = job.told()["RunTime"].split(":")
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds)


def test_a_run_signalled_at_random_moments_ends_as_if_it_had_not(submit, shared, brake, uninterrupted):
    folder, draw = shared / "signalled", random.Random(0)  # noqa: S311
    job = submit("pretrain_64gpu.sh", *TWO_NODES, words=words(folder, brake.shards))
    for start in range(1, NUM_SIGNALS + 1):
        job.wait_for_step(start)
        # Every third falls into the steps; the others anywhere, Python's imports too.
        if start % 3 == 0:
            job.wait_until(steps_are_taken(job, start), "step")
        time.sleep(draw.uniform(0, 10))
        call("scancel", "--signal=USR1", job.number)
        job.wait_until(lambda start=start: job.restarts == start, f"restart {start}")
    brake.release()
    assert job.wait() == "COMPLETED"
    assert job.restarts == NUM_SIGNALS
    assert_alike(folder, uninterrupted)


def test_a_killed_rank_ends_the_job_within_seconds_and_is_named(submit, shared, brake):
    job = submit("pretrain_64gpu.sh", *TWO_NODES, words=words(shared / "killed", brake.shards))
    job.wait_until(steps_are_taken(job, 1), "first step")
    kill_rank(job, 1)
    begun = time.monotonic()
    assert job.wait() == "FAILED"
    assert time.monotonic() - begun < 30
    assert job.restarts == 0
    assert re.search(r"^srun: error: \S+: task 1: Killed", job.text, re.M)
    assert re.search(rf"^job {job.number}: failed with status \d+: ", job.text.splitlines()[-1])


def kill_rank(job: Job, rank: int) -> None:
    """SIGKILL the processes of one rank, on its node."""
    nodes = call("scontrol", "show", "hostnames", job.told()["NodeList"]).split()
    script = (
        "for folder in /proc/[0-9]*; do"
        f" if tr '\\0' '\\n' <$folder/environ 2>/dev/null | grep -qx SLURM_PROCID={rank} &&"
        " tr '\\0' '\\n' <$folder/environ | grep -qx SLURM_STEP_ID=0 &&"
        f" tr '\\0' '\\n' <$folder/environ | grep -qx SLURM_JOB_ID={job.number};"
        " then kill -KILL ${folder#/proc/}; fi; done"
    )
    call("srun", f"--jobid={job.number}", "--overlap", f"--nodelist={nodes[rank]}", "--nodes=1", "--ntasks=1",
         "--ntasks-per-node=1", "bash", "-c", script)  # fmt: skip


@pytest.mark.skipif("SLURM_CLUSTER" not in os.environ, reason="nodes of a Slurm that is not the tests' own stay on")
def test_a_run_whose_node_is_switched_off_ends_as_if_it_had_not(submit, shared, brake, uninterrupted):
    folder = shared / "switched_off"
    told = [*words(folder, brake.shards), "--run.checkpoint_every_n_steps", "2"]
    job = submit("pretrain_64gpu.sh", *TWO_NODES, words=told)
    job.wait_until(lambda: (folder / "checkpoints/last.ckpt").exists(), "checkpoint")
    node = call("scontrol", "show", "hostnames", job.told()["NodeList"]).split()[1]
    cluster = os.environ["SLURM_CLUSTER"]
    call(cluster, "kill-node", node)
    try:  # another node takes its place; booted at once, it would be sent what its first life was too dead to hear
        job.wait_until(lambda: job.restarts > 0, "restart", 120)
        brake.release()
        assert job.wait() == "COMPLETED"
    finally:
        subprocess.run([cluster, "start-node", node], check=True, capture_output=True)
    assert node not in call("scontrol", "show", "hostnames", job.told()["NodeList"]).split()
    assert "resuming" in job.text
    assert_alike(folder, uninterrupted)
