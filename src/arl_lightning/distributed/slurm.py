"""What Slurm tells a process, and what a process asks of Slurm; needs no torch."""

import os
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arl_lightning.errors import UserError

if TYPE_CHECKING:
    from lightning.fabric.plugins import ClusterEnvironment

SPECIAL_STEPS = 0xFFFFFFF0  # and above: batch script, interactive shell, external processes
SCONTROL_SECONDS = 30.0
TRIES = 4  # of a controller that does not answer
FIRST_PORT = 15000
PORT_OUTSIDE = 12910
LOCAL_ADDRESSES = ("localhost", "127.", "::1")  # how they begin


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of its step.

    Attributes:
        rank: Among all processes.
        world_size: Number of all processes.
        local_rank: Among those of its node.
        node_rank: Its node's number.
        num_nodes: Number of nodes.
        host: Its node's name.
        main_address: Where rank 0 listens.
        main_port: At which port.
    """

    rank: int
    world_size: int
    local_rank: int
    node_rank: int
    num_nodes: int
    host: str
    main_address: str
    main_port: int


def in_slurm_step() -> bool:
    """Return whether srun started this process as one of a step's tasks, not as somebody's shell."""
    step = os.environ.get("SLURM_STEP_ID", "")
    if not step.isdecimal() or int(step) >= SPECIAL_STEPS:
        return False
    shell = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # Lightning's words for `srun --pty bash`
    return not shell or _number("SLURM_STEP_NUM_TASKS", default=1) > 1


def place() -> Place:
    """Return where srun put this process; alone on this host outside a step.

    Raises:
        UserError: If all ranks would wait at an address that only this node has.
    """
    if not in_slurm_step():
        return Place(0, 1, 0, 0, 1, host_name(), "127.0.0.1", int(os.environ.get("MASTER_PORT", PORT_OUTSIDE)))
    num_nodes = _number("SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    return Place(
        rank=_number("SLURM_PROCID"),
        world_size=_number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
        local_rank=_number("SLURM_LOCALID"),
        node_rank=_number("SLURM_NODEID"),
        num_nodes=num_nodes,
        host=host_name(),
        main_address=_main_address(num_nodes),
        main_port=_main_port(),
    )


def host_name() -> str:
    """Return this node's name, as Slurm spells it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]


def _number(*names: str, default: int | None = None) -> int:
    for name in names:
        if name in os.environ:
            return int(os.environ[name])
    if default is None:
        raise UserError(f"{names[-1]}: is not set, though this is a step of Slurm's: start with srun from the job")
    return default


def _main_address(num_nodes: int) -> str:
    given = os.environ.get("MASTER_ADDR")
    if given is None:
        return first_host(os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST") or "127.0.0.1")
    refuse_local_address(given, num_nodes)
    return given


def refuse_local_address(address: str | None, num_nodes: int) -> None:
    """Refuse a MASTER_ADDR that is another machine on each node.

    Raises:
        UserError: If there are several.
    """
    if num_nodes > 1 and address is not None and address.startswith(LOCAL_ADDRESSES):
        raise UserError(
            f"MASTER_ADDR: {address} is another machine on each of {num_nodes} nodes, and all would wait for ever;"
            " unset it, Slurm's first node is taken"
        )


def first_host(nodes: str) -> str:
    """Return the first host of a node list such as `gpu01,gpu[03-05]` or `rack[1-2]n[0-3]`."""
    first = re.match(r"(?:[^,\s\[]|\[[^\]]*\])*", nodes.strip())
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group()) if first else nodes


def _main_port() -> int:
    """Return a port that is the job's own, from its number, as Lightning does."""
    if "MASTER_PORT" in os.environ:
        return int(os.environ["MASTER_PORT"])
    job = os.environ.get("SLURM_JOB_ID")
    return FIRST_PORT + int(job[-4:]) if job else PORT_OUTSIDE


def cluster_environment() -> list["ClusterEnvironment"]:
    """Return the plugin that tells the trainer its ranks; none where Lightning finds out by itself.

    Lightning's own handlers of signals stay off. In an allocation, but without srun, it would wait for tasks that
    nobody starts.

    Raises:
        UserError: If the ranks could not meet, or the step was not started with a number of tasks for each node.
    """
    from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect() or job_id() is None:
        return []
    if not in_slurm_step():
        return [LightningEnvironment()]
    here = place()
    if here.world_size > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise UserError(f"srun: {here.world_size} tasks, but not how many on each node; use --ntasks-per-node")
    os.environ["MASTER_ADDR"] = here.main_address
    return [SLURMEnvironment(auto_requeue=False)]


# ---------------------------------------------------------------- the job


@dataclass(frozen=True)
class Job:
    """What Slurm says about a job.

    Attributes:
        state: Such as RUNNING; COMPLETING while its processes are being ended.
        reason: Such as TimeLimit, or None.
        batch: Whether a script runs it, which Slurm can start again.
    """

    state: str
    reason: str
    batch: bool

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody wants it to end: such a job completes for no reason."""
        return self.state.startswith("CANCELLED") or (self.state == "COMPLETING" and self.reason != "TimeLimit")


def job_id() -> str | None:
    """Return the job's number, A_T for a task of an array; None outside Slurm."""
    if "SLURM_ARRAY_JOB_ID" in os.environ and "SLURM_ARRAY_TASK_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def restart_count() -> int:
    """Return how often Slurm has started this job again."""
    return _number("SLURM_RESTART_COUNT", default=0)


def job_state(job: str) -> Job | None:
    """Ask Slurm about a job; None where it does not answer or know it."""
    said, reason = _scontrol("-o", "show", "job", job)
    fields = dict(word.split("=", 1) for word in said.split() if "=" in word)
    if reason is not None or "JobState" not in fields:
        return None
    return Job(fields["JobState"], fields.get("Reason", "None"), fields.get("BatchFlag") == "1")


def requeue(job: str) -> str | None:
    """Put a running job back into the queue, which ends its processes; returns the reason where Slurm refuses."""
    return _scontrol("requeue", job)[1]


def send_back(job: str) -> str:
    """Requeue a job that should go on, and say what becomes of it."""
    known = job_state(job)
    if known is not None and not known.batch:
        return "go on with --ckpt_path last"
    if known is not None and known.is_cancelled:
        return f"job {job} was cancelled and stays so; go on with --ckpt_path last"
    if known is not None and known.state == "PREEMPTED":
        return f"Slurm starts job {job} again"
    reason = requeue(job)
    if reason is None:
        return f"job {job} is back in the queue and goes on from there"
    return f"job {job} could not be requeued ({reason}): submit it again, it goes on from there"


def _scontrol(*words: str) -> tuple[str, str | None]:
    """Return what scontrol says, and why it failed; ask again where the controller does not answer."""
    for attempt in range(TRIES):
        try:
            done = subprocess.run(
                ["scontrol", *words], capture_output=True, text=True, timeout=SCONTROL_SECONDS, check=False
            )
        except FileNotFoundError:
            return "", "no scontrol here"
        except subprocess.TimeoutExpired:
            reason = f"no answer in {SCONTROL_SECONDS:.0f} s"
            continue
        if done.returncode == 0:
            return done.stdout, None
        reason = " ".join(done.stderr.split()) or f"scontrol ended with status {done.returncode}"
        if not re.search(r"contact|timed out|connect", reason, re.IGNORECASE):
            break
        if attempt + 1 < TRIES:
            time.sleep(2.0**attempt)
    return "", reason
