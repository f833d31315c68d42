"""What a run runs on: nodes, devices, cores, network, versions; said at its start and kept with its weights."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch
import torch.distributed as dist

from arl_lightning.distributed.collectives import gather_rows, is_first_rank, world_size
from arl_lightning.distributed.slurm import job_id, restart_count
from arl_lightning.training.host import Process, git_state

GIB = 2**30
INTERFACE_VARIABLES = {"nccl": "NCCL_SOCKET_IFNAME", "gloo": "GLOO_SOCKET_IFNAME"}
LABEL = 16  # columns before a line's text


@dataclass(frozen=True)
class Setting:
    """What all ranks run on.

    Attributes:
        processes: By rank.
        num_workers: Loader workers of each rank.
        backend: What carries the exchanges, such as nccl; None for one process.
        interface: The network interface that the backend was told to use; None where it chooses.
        job: Slurm's number of the job; None outside.
        restarts: How often Slurm has started the job again.
        git: The commit of the code, None for an installed package.
        started: When, in UTC.
    """

    processes: tuple[Process, ...]
    num_workers: int
    backend: str | None
    interface: str | None
    job: str | None
    restarts: int
    git: str | None
    started: str

    def plain(self) -> dict[str, Any]:
        """Return strings, numbers, lists and dictionaries, as checkpoints take them."""
        processes = [
            asdict(process) | {"cores": ranges(process.cores), "software": dict(process.software)}
            for process in self.processes
        ]
        return asdict(self) | {"processes": processes}

    def lines(self) -> list[str]:
        """Return what the first rank says, equal nodes in one line however many there are."""
        said = [*self._node_lines(), ("cores", self._cores())]
        if self.backend is not None:
            said.append(("network", self._network()))
        if self.job is not None:
            again = f", started again {self.restarts} times" if self.restarts else ""
            said.append(("Slurm", f"job {self.job}{again}"))
        software = ", ".join(f"{name} {version}" for name, version in self.processes[0].software)
        said += [("software", software), ("code", self.git or "not a git checkout"), ("started", self.started)]
        return [label.ljust(LABEL) + text for label, text in said]

    def warnings(self) -> list[str]:
        """Return what will make the run slow or hang, or its results depend on the rank, and what to do."""
        return [*self._few_cores(), *self._mixed_software(), *self._loopback()]

    # ---------------------------------------------------------------- lines

    def _by_host(self) -> dict[str, list[Process]]:
        hosts: dict[str, list[Process]] = {}
        for process in self.processes:
            hosts.setdefault(process.host, []).append(process)
        return hosts

    def _node_lines(self) -> list[tuple[str, str]]:
        kinds: dict[tuple[int, str], list[str]] = {}
        for host, processes in self._by_host().items():
            kinds.setdefault((len(processes), _devices(processes)), []).append(host)
        return [
            ("nodes", f"{_count(len(hosts), 'node')} x {_count(ranks, 'rank')} on {devices}: {host_list(hosts)}")
            for (ranks, devices), hosts in kinds.items()
        ]

    def _cores(self) -> str:
        own, shares = [len(process.cores) for process in self.processes], self._core_shares()
        text = f"{min(own)}" if min(own) == max(own) else f"{min(own)} to {max(own)}"
        shared = "" if shares == own else f", shared with other ranks: {min(shares):.3g} each"
        return f"{text} for each rank{shared}; {_count(self.num_workers, 'loader worker')}"

    def _network(self) -> str:
        hosts = {process.host: process for process in self.processes}.values()
        interfaces = ", ".join(sorted({process.interface for process in hosts}))
        chosen = self.interface or f"interface of its own choice, the hosts' names are on {interfaces}"
        return f"{self.backend}, {chosen}"

    # ---------------------------------------------------------------- warnings

    def _core_shares(self) -> list[float]:
        """Return the cores of each rank, one that several ranks may use in parts."""
        users = Counter((process.host, core) for process in self.processes for core in process.cores)
        return [sum(1 / users[process.host, core] for core in process.cores) for process in self.processes]

    def _few_cores(self) -> Iterable[str]:
        needed = self.num_workers + 1
        short = {rank: share for rank, share in enumerate(self._core_shares()) if share < needed}
        if short:
            worst = min(short, key=lambda rank: short[rank])
            yield (
                f"{_count(len(short), 'rank')} with too few cores: rank {worst} on {self.processes[worst].host} has"
                f" {short[worst]:.3g} for one process and {_count(self.num_workers, 'loader worker')}; ask for"
                f" --cpus-per-task={needed} or more, or lower data.num_workers"
            )

    def _mixed_software(self) -> Iterable[str]:
        first = self.processes[0]
        for rank, process in enumerate(self.processes):
            if process.software != first.software:
                own, others = dict(process.software), dict(first.software)
                names = [name for name in others | own if own.get(name) != others.get(name)]
                differing = ", ".join(f"{name} {own.get(name)} instead of {others.get(name)}" for name in names)
                yield f"rank {rank} on {process.host} runs {differing}; use one environment on all nodes"
                return

    def _loopback(self) -> Iterable[str]:
        hosts = self._by_host()
        unreachable = [host for host, (process, *_) in hosts.items() if process.address.startswith("127.")]
        if len(hosts) > 1 and self.backend == "gloo" and self.interface is None and unreachable:
            yield (
                f"{host_list(unreachable)}: the node's own name is its loopback address, where no other node finds it;"
                f" set {INTERFACE_VARIABLES['gloo']} to the network's interface"
            )


def gather_setting(device: torch.device, num_workers: int) -> Setting:
    """Look around on every rank; all ranks call it, once the process group runs, and get the same.

    Args:
        device: What this rank computes on.
        num_workers: Its loader workers.
    """
    git = git_state() if is_first_rank() else None  # 64 of them would be a burden to the file system
    rows = gather_rows((Process.here(device), git, datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")))
    backend = _backend(device)
    return Setting(
        processes=tuple(process for process, _, _ in rows),
        num_workers=num_workers,
        backend=backend,
        interface=os.environ.get(INTERFACE_VARIABLES.get(backend or "", "")),
        job=job_id(),
        restarts=restart_count(),
        git=rows[0][1],
        started=rows[0][2],
    )


def _backend(device: torch.device) -> str | None:
    if world_size() == 1:
        return None
    backends = dict(part.split(":") for part in dist.get_backend_config().split(","))  # cpu:gloo,cuda:nccl
    return backends.get(device.type)


def _devices(processes: Sequence[Process]) -> str:
    """Say what a node's ranks compute on; they share a CPU, and have a GPU each."""
    kinds = Counter((process.device, process.memory) for process in processes)
    return ", ".join(f"{name} of {memory / GIB:.0f} GiB" for name, memory in kinds)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ranges(numbers: Iterable[int], width: int = 0) -> str:
    """Write whole numbers as `0-3,8`.

    Args:
        numbers: In any order, none twice.
        width: Digits of each, filled up with zeros.
    """
    # Within a run of consecutive numbers the difference to their place is constant.
    runs = itertools.groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])
    ends = [(members[0][1], members[-1][1]) for members in (list(run) for _, run in runs)]
    return ",".join(f"{a:0{width}}" if a == b else f"{a:0{width}}-{b:0{width}}" for a, b in ends)


def host_list(hosts: Iterable[str]) -> str:
    """Write names of nodes as Slurm does: `gpu[01-08],login`."""
    numbered: dict[tuple[str, int], list[int]] = {}
    plain = []
    for host in hosts:
        match = re.fullmatch(r"(.*?)(\d+)", host)
        if match is None:
            plain.append(host)
        else:
            name, number = match.groups()
            numbered.setdefault((name, len(number)), []).append(int(number))
    grouped = [
        f"{name}{numbers[0]:0{width}}" if len(numbers) == 1 else f"{name}[{ranges(numbers, width)}]"
        for (name, width), numbers in numbered.items()
    ]
    return ",".join(grouped + plain)
