"""What a job has been given, told by its environment alone: no process group, no GPU and no `srun` is needed."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from arl_lightning.data.wording import count
from arl_lightning.distributed.slurm import refuse_local_address
from arl_lightning.errors import UserError

GPU_ACCELERATORS = ("cuda", "gpu")
GPU_NUMBERS = ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE")  # such as 4, or a100:4
VISIBLE = "CUDA_VISIBLE_DEVICES"
GPU_LISTS = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", VISIBLE)  # such as 0,2-3
DRIVER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Allocation:
    """What one node of a job has, and how many nodes there are.

    Attributes:
        job: Slurm's number; None outside of a job.
        nodes: Of the job, None where unknown.
        tasks_per_node: That `srun` starts, None where it was not said.
        cores: That this node lets the job use.
        gpus: Of this node, None where unknown.
        gpus_by: What says so.
        memory_gb: That the job may use on this node, None where unknown.
        main_address: MASTER_ADDR, where the ranks meet, as somebody has set it.
    """

    job: str | None
    nodes: int | None
    tasks_per_node: int | None
    cores: int
    gpus: int | None
    gpus_by: str
    memory_gb: float | None
    main_address: str | None

    @classmethod
    def found(cls, environment: Mapping[str, str], cores: int | None = None, memory_gb: float | None = None) -> Self:
        """Read it from the environment of a batch script or of a shell; cores and memory may be given instead."""
        job = environment.get("SLURM_JOB_ID")
        own = {} if job is None else environment
        nodes, tasks_per_node = _number(own, "SLURM_NNODES"), _number(own, "SLURM_NTASKS_PER_NODE")
        if (
            job is not None
            and tasks_per_node is None
            and nodes in (None, 1)
            and _number(own, "SLURM_NTASKS") in (None, 1)
        ):
            tasks_per_node = 1
        own_cores = _number(own, "SLURM_CPUS_ON_NODE") or len(os.sched_getaffinity(0))
        gpus, gpus_by = _gpus(environment, job is not None)
        return cls(
            job,
            nodes,
            tasks_per_node,
            cores or own_cores,
            gpus,
            gpus_by,
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
    number = _gpus_named(devices, gpus) if accelerator in GPU_ACCELERATORS else _processes_named(devices)
    if number < 1 or num_nodes < 1:
        raise UserError(f"trainer.devices {devices}, trainer.num_nodes {num_nodes}: both must be at least 1")
    return Ranks(accelerator, num_nodes, number)


def _processes_named(devices: Any) -> int:
    text = str(devices).strip()
    if text == "auto":
        return 1
    if not text.isdecimal():
        raise UserError(f"trainer.devices {devices}: must be the number of processes on CPUs")
    return int(text)


def _gpus_named(devices: Any, gpus: int | None) -> int:
    text = str(devices).strip()
    if text in ("auto", "-1"):
        if gpus is None:
            raise UserError(f"trainer.devices {devices}: this machine's GPUs are not known here; give their number")
        return gpus
    if text.isdecimal():
        return int(text)
    listed = text.strip("[]()").split(",") if "," in text or not isinstance(devices, str) else []
    numbers = [each.strip() for each in listed if each.strip()]
    if not numbers or not all(each.isdecimal() for each in numbers) or len(set(numbers)) < len(numbers):
        raise UserError(
            f"trainer.devices {devices}: must be a number, a list of different GPUs such as [0, 1], or auto"
        )
    return len(numbers)


def refuse_other_job(ranks: Ranks, own: Allocation) -> None:
    """Refuse a recipe that its job has no place for: ranks would wait for others that nobody starts.

    Raises:
        UserError: With the key and the number that would do.
    """
    refuse_local_address(own.main_address, ranks.nodes)
    if own.nodes is not None and own.nodes != ranks.nodes:
        raise UserError(
            f"trainer.num_nodes {ranks.nodes}: job {own.job} has {own.nodes} (SLURM_NNODES); use --trainer.num_nodes"
            f" {own.nodes}, or sbatch --nodes {ranks.nodes}"
        )
    if own.job is not None:
        _refuse_other_tasks(ranks, own)
    if ranks.on_gpus:
        _refuse_fewer_gpus(ranks, own)


def _refuse_other_tasks(ranks: Ranks, own: Allocation) -> None:
    """One task a node is enough where `arl pretrain` or torchrun starts the ranks."""
    if own.tasks_per_node is None:
        raise UserError(
            f"trainer.devices {ranks.per_node}: job {own.job} does not say how many tasks a node has"
            f" (SLURM_NTASKS_PER_NODE); use sbatch --ntasks-per-node {ranks.per_node}, or 1 with torchrun"
        )
    if own.tasks_per_node not in (1, ranks.per_node):
        raise UserError(
            f"trainer.devices {ranks.per_node}: job {own.job} has {own.tasks_per_node} tasks a node, one for each rank;"
            f" use --trainer.devices {own.tasks_per_node}, or sbatch --ntasks-per-node {ranks.per_node}"
        )


def _refuse_fewer_gpus(ranks: Ranks, own: Allocation) -> None:
    if own.gpus is None and own.job is not None:
        raise UserError(
            f"trainer.accelerator {ranks.accelerator}: job {own.job} was given no GPUs; use sbatch --gpus-per-node"
            f" {ranks.per_node}, or set {VISIBLE} where Slurm does not hand them out"
        )
    if own.gpus is not None and own.gpus < ranks.per_node:
        fewer = f"use --trainer.devices {own.gpus}" if own.gpus else "use --trainer.accelerator cpu"
        raise UserError(
            f"trainer.devices {ranks.per_node}: this node has {own.gpus} GPUs ({own.gpus_by}); {fewer}, or sbatch"
            f" --gpus-per-node {ranks.per_node}"
        )


def _number(environment: Mapping[str, str], name: str) -> int | None:
    found = re.match(r"\d+", environment.get(name, ""))
    return int(found[0]) if found else None


def _gpus(environment: Mapping[str, str], in_job: bool) -> tuple[int | None, str]:
    """Return the node's GPUs and what says so: Slurm, else what CUDA is shown, else the driver outside of jobs."""
    for name in GPU_NUMBERS if in_job else ():
        numbers = [each.rpartition(":")[2] for each in environment.get(name, "").split(",")]
        if all(number.isdecimal() for number in numbers):
            return sum(map(int, numbers)), name
    for name in GPU_LISTS if in_job else (VISIBLE,):
        if name in environment:
            return _listed(environment[name]), name
    if in_job or not DRIVER.is_dir():
        return None, ""
    return len(list(DRIVER.iterdir())), "as the driver says"


def _listed(text: str) -> int:
    """Count GPUs of a list: their numbers, ranges of these, or GPU-... and MIG-..."""
    number = 0
    for each in map(str.strip, text.split(",")):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?|(?:GPU|MIG)-.+", each)
        if found is None:
            break  # CUDA sees none behind what is no GPU, such as -1 or NoDevFiles
        number += int(found[2]) - int(found[1]) + 1 if found[2] else 1
    return number


def _memory(environment: Mapping[str, str], cores: int) -> float | None:
    whole, each = _number(environment, "SLURM_MEM_PER_NODE"), _number(environment, "SLURM_MEM_PER_CPU")
    megabytes = whole or (each or 0) * cores
    return megabytes * 1024**2 / 1e9 if megabytes else None  # 0 means all there is
