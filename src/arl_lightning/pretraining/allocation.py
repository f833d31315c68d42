"""What a job has been given, told by its environment alone: no process group, no GPU and no `srun` is needed."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from arl_lightning.data.wording import count
from arl_lightning.errors import UserError

LOCAL_ADDRESSES = ("localhost", "127.", "::1")  # how they begin
INTERACTIVE = ("bash", "interactive")  # names of jobs in which Lightning leaves Slurm aside
GPU_ACCELERATORS = ("cuda", "gpu")


@dataclass(frozen=True)
class Allocation:
    """What one node of a job has, and how many nodes there are.

    Attributes:
        job: Slurm's number; None outside of a job whose ranks `srun` starts.
        nodes: Of the job, None where unknown.
        tasks_per_node: Of the job, None where it was not said.
        cores: That this node lets the job use.
        gpus: Of this node, None where unknown.
        memory_gb: That the job may use on this node, None where unknown.
        main_address: MASTER_ADDR, where the ranks meet, as somebody has set it.
    """

    job: str | None
    nodes: int | None
    tasks_per_node: int | None
    cores: int
    gpus: int | None
    memory_gb: float | None
    main_address: str | None

    @classmethod
    def found(cls, environment: Mapping[str, str], cores: int | None = None, memory_gb: float | None = None) -> Self:
        """Read it from the environment of a batch script or of a shell; cores and memory may be given instead."""
        in_job = "SLURM_JOB_ID" in environment and environment.get("SLURM_JOB_NAME") not in INTERACTIVE
        own = environment if in_job else {}
        nodes, tasks = _number(own, "SLURM_NNODES"), _number(own, "SLURM_NTASKS")
        per_node = _number(own, "SLURM_NTASKS_PER_NODE")
        if per_node is None and tasks is not None and nodes:
            per_node = -(-tasks // nodes)
        own_cores = _number(own, "SLURM_CPUS_ON_NODE") or len(os.sched_getaffinity(0))
        return cls(
            own.get("SLURM_JOB_ID"),
            nodes,
            per_node,
            cores or own_cores,
            _gpus(own),
            memory_gb or _memory(own, own_cores),
            environment.get("MASTER_ADDR"),
        )

    def __str__(self) -> str:
        has = [] if self.tasks_per_node is None else [count(self.tasks_per_node, "task")]
        has.append(count(self.cores, "core"))
        has += [] if self.gpus is None else [count(self.gpus, "GPU")]
        has += [] if self.memory_gb is None else [f"{self.memory_gb:.4g} GB"]
        job = "no job" if self.job is None else f"job {self.job}"
        each = ", each" if (self.nodes or 1) > 1 else ""
        nodes = "this machine" if self.nodes is None else f"{count(self.nodes, 'node')}{each}"
        return f"{job}: {nodes} with {', '.join(has)}"


@dataclass(frozen=True)
class Ranks:
    """How many processes a recipe asks for.

    Attributes:
        accelerator: As Lightning names it.
        nodes: `trainer.num_nodes`.
        per_node: `trainer.devices`, counted.
    """

    accelerator: str
    nodes: int
    per_node: int

    @property
    def world_size(self) -> int:
        """All of them."""
        return self.nodes * self.per_node

    @property
    def on_gpus(self) -> bool:
        """Whether each has a GPU."""
        return self.accelerator in GPU_ACCELERATORS

    def __str__(self) -> str:
        devices = count(self.per_node, "GPU") if self.on_gpus else f"{self.per_node} on CPUs"
        return f"{count(self.nodes, 'node')} x {devices} = {self.world_size:,}"


def asked_for(accelerator: str, devices: Any, num_nodes: int, gpus: int | None) -> Ranks:
    """Count the ranks that `trainer.accelerator`, `trainer.devices` and `trainer.num_nodes` mean, as Lightning does.

    Raises:
        UserError: If the number cannot be known here, or is none.
    """
    if accelerator == "auto":
        accelerator = "cuda" if gpus else "cpu"
    number = _named(devices)
    if number is None and accelerator not in GPU_ACCELERATORS:
        number = 1
    if number is None and gpus is None:
        raise UserError(f"trainer.devices {devices}: this machine's GPUs are not known here; give their number")
    number = gpus if number is None else number
    if not number or num_nodes < 1:
        raise UserError(f"trainer.devices {devices}, trainer.num_nodes {num_nodes}: both must be at least 1")
    return Ranks(accelerator, num_nodes, number)


def refuse_other_job(ranks: Ranks, own: Allocation) -> None:
    """Refuse a recipe that its job has no place for: ranks would wait for others that nobody starts.

    Raises:
        UserError: With the key and the number that would do.
    """
    if ranks.nodes > 1 and (own.main_address or "").startswith(LOCAL_ADDRESSES):
        raise UserError(
            f"MASTER_ADDR={own.main_address}: each of {ranks.nodes} nodes would wait for itself; unset it, as Slurm's"
            " list of nodes says where ranks meet"
        )
    if own.nodes is not None and own.nodes != ranks.nodes:
        raise UserError(
            f"trainer.num_nodes {ranks.nodes}: job {own.job} has {own.nodes} (SLURM_NNODES); use --trainer.num_nodes"
            f" {own.nodes}, or sbatch --nodes {ranks.nodes}"
        )
    if own.tasks_per_node is not None and own.tasks_per_node != ranks.per_node:
        raise UserError(
            f"trainer.devices {ranks.per_node}: job {own.job} has {own.tasks_per_node} tasks a node, one for each rank;"
            f" use --trainer.devices {own.tasks_per_node}, or sbatch --ntasks-per-node {ranks.per_node}"
        )
    if ranks.on_gpus and own.gpus is not None and own.gpus < ranks.per_node:
        known = "SLURM_GPUS_ON_NODE" if own.job else "as the driver says"
        fewer = f"use --trainer.devices {own.gpus}" if own.gpus else "use --trainer.accelerator cpu"
        raise UserError(
            f"trainer.devices {ranks.per_node}: this node has {own.gpus} GPUs ({known}); {fewer}, or sbatch"
            f" --gpus-per-node {ranks.per_node}"
        )


def _named(devices: Any) -> int | None:
    """Return how many devices `trainer.devices` names, None for all of them."""
    if isinstance(devices, str):
        text = devices.strip()
        if text in ("auto", "-1"):
            return None
        return int(text) if text.isdigit() else len([each for each in text.split(",") if each.strip()])
    if isinstance(devices, Sequence):
        return len(devices)
    return None if devices == -1 else int(devices)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    found = re.match(r"\d+", environment.get(name, ""))
    return int(found[0]) if found else None


def _gpus(environment: Mapping[str, str]) -> int | None:
    """Return the node's GPUs: Slurm's number, else the driver's, None where neither tells."""
    given = _number(environment, "SLURM_GPUS_ON_NODE")
    if given is not None or environment:
        return given
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else None


def _memory(environment: Mapping[str, str], cores: int) -> float | None:
    whole, each = _number(environment, "SLURM_MEM_PER_NODE"), _number(environment, "SLURM_MEM_PER_CPU")
    megabytes = whole or (each or 0) * cores
    return megabytes * 1024**2 / 1e9 if megabytes else None  # 0 means all there is
