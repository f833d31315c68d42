"""What one process runs on, as far as it can see for itself."""

import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch

import arl_lightning
from arl_lightning.distributed.slurm import host_name

SIOCGIFADDR = 0x8915  # Linux: the address of an interface
GIT_SECONDS = 10.0


@dataclass(frozen=True)
class Process:
    """One rank's surroundings.

    Attributes:
        host: Its node's name.
        address: What that name resolves to, or a word where it does not.
        interface: The network interface with that address.
        device: The model of what it computes on.
        memory: Bytes of the GPU, or of the host.
        cores: Numbers of the cores that it may use.
        software: Name and version of what results can depend on.
    """

    host: str
    address: str
    interface: str
    device: str
    memory: int
    cores: tuple[int, ...]
    software: tuple[tuple[str, str], ...]

    @classmethod
    def here(cls, device: torch.device) -> "Process":
        """Look around."""
        address = _address()
        name, memory = _gpu(device) if device.type == "cuda" else _cpu()
        cores = tuple(sorted(os.sched_getaffinity(0)))
        return cls(host_name(), address, _interface(address), name, memory, cores, software())


def software() -> tuple[tuple[str, str], ...]:
    """Return names and versions."""
    versions = {
        "arl_lightning": arl_lightning.__version__,
        "torch": str(torch.__version__),  # a class of its own, which checkpoints may not hold
        "lightning": lightning.__version__,
        "CUDA": torch.version.cuda if torch.cuda.is_available() else None,
        "NCCL": ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None,
    }
    return tuple((name, version) for name, version in versions.items() if version)


def git_state(folder: Path | None = None) -> str | None:
    """Return the commit that a package's code is from, and whether it was changed since; None outside a checkout.

    Args:
        folder: With the package's `__init__.py`; ours by default.
    """
    folder = folder or Path(arl_lightning.__file__).parent

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie in an environment within somebody else's checkout.
    if ask("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = ask("rev-parse", "--short=12", "HEAD")
    changed = ask("status", "--porcelain", "--untracked-files=no")
    return commit if not changed else f"{commit} with local changes"


def _gpu(device: torch.device) -> tuple[str, int]:
    properties = torch.cuda.get_device_properties(device)
    return properties.name, properties.total_memory


def _cpu() -> tuple[str, int]:
    lines = _read(Path("/proc/cpuinfo")).splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else "CPU", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _address() -> str:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "not resolved"


def _interface(address: str, address_of: Callable[[str], str | None] | None = None) -> str:
    address_of = address_of or _address_of
    names = [name for _, name in socket.if_nameindex() if address_of(name) == address]
    return names[0] if names else "none"


def _address_of(interface: str) -> str | None:
    request = struct.pack("256s", interface[:15].encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)[20:24])
        except OSError:  # an interface without an address
            return None
