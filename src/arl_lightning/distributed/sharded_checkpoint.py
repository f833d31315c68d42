"""Checkpoints that are folders: shards of torch.distributed.checkpoint, and `meta.pt` with all that is no such tensor.

Tensors have flat names: `weights.NAME`, and `optimizer.NUMBER.INDEX.STATE` for the INDEX-th parameter in the order of
an optimizer's groups, which does not depend on how a run is distributed. A folder gets its name once it is whole.
"""

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor

from arl_lightning.distributed.shard_index import META, SHARDS, DamagedShard, NotWhole, ShardReader, read_index
from arl_lightning.errors import UserError

WEIGHTS, OPTIMIZER = "weights", "optimizer"


def split(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Part Lightning's checkpoint into its tensors, by flat name, and all the rest."""
    tensors = {f"{WEIGHTS}.{name}": value for name, value in checkpoint.get("state_dict", {}).items()}
    optimizers = []
    for number, optimizer in enumerate(checkpoint.get("optimizer_states", [])):
        for index, state in optimizer["state"].items():
            tensors |= {f"{OPTIMIZER}.{number}.{index}.{name}": value for name, value in state.items()}
        optimizers.append({"state": {}, "param_groups": optimizer["param_groups"]})
    return tensors, {**checkpoint, "state_dict": {}, "optimizer_states": optimizers}


def join(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what `split` has parted."""
    optimizers = [{**optimizer, "state": {}} for optimizer in rest["optimizer_states"]]
    checkpoint = {**rest, "state_dict": {}, "optimizer_states": optimizers}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == WEIGHTS:
            checkpoint["state_dict"][name] = value
        else:
            number, index, entry = name.split(".", 2)
            optimizers[int(number)]["state"].setdefault(int(index), {})[entry] = value
    return checkpoint


def is_folder(path: Path) -> bool:
    """Return whether a path is a checkpoint's folder, whole or not."""
    return path.is_dir() and (
        path.resolve().suffix == ".ckpt" or any((path / name).exists() for name in (META, SHARDS))
    )


def is_whole(path: Path) -> bool:
    """Return whether a checkpoint, file or folder, has all its parts in full length; a cut file has lost its end."""
    if not path.is_dir():
        return path.is_file() and zipfile.is_zipfile(path)
    try:
        read_index(path)
    except NotWhole:
        return False
    return True


def newest_whole(folder: Path, apart_from: Path | None = None) -> Path | None:
    """Return the step's checkpoint in a folder that was written last; what is not whole does not count."""
    files = [path for path in folder.glob("step-*.ckpt") if not path.is_symlink() and path != apart_from]
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if is_whole(path):
            return path
    return None


class Source(Protocol):
    """Tensors of a checkpoint by flat name, read where they are asked for.

    Attributes:
        path: Of the checkpoint.
        rest: What is no tensor.
    """

    path: Path
    rest: dict[str, Any]

    def entries(self) -> Mapping[str, tuple[torch.Size, torch.dtype]]:
        """Return every tensor's size and type."""

    def fill(self, targets: dict[str, Tensor]) -> None:
        """Read into tensors of the same names and sizes; of a sharded one only what this rank holds."""


class WholeSource:
    """A checkpoint that holds whole tensors, mapped into memory from a file."""

    def __init__(self, path: Path, checkpoint: Mapping[str, Any]) -> None:
        self.path = path
        self.tensors, self.rest = split(checkpoint)

    def entries(self) -> Mapping[str, tuple[torch.Size, torch.dtype]]:
        """Return every tensor's size and type."""
        return {name: (value.shape, value.dtype) for name, value in self.tensors.items()}

    def fill(self, targets: dict[str, Tensor]) -> None:
        """Copy, without communication."""
        with torch.no_grad():
            for name, target in targets.items():
                if isinstance(target, DTensor):
                    mesh, placements = target.device_mesh, target.placements
                    part = distribute_tensor(self.tensors[name], mesh, placements, src_data_rank=None)
                    target.to_local().copy_(part.to_local())
                else:
                    target.copy_(self.tensors[name])


class FolderSource:
    """A folder of shards, written by any number of ranks.

    Raises:
        UserError: If it is not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._index = read_index(path)
        except NotWhole as lack:
            raise UserError(f"{path}: is not whole ({lack}); {_way_on(path)}") from lack
        with _damage_told(path):
            self.rest: dict[str, Any] = torch.load(path / META, map_location="cpu", weights_only=True)

    def entries(self) -> Mapping[str, tuple[torch.Size, torch.dtype]]:
        """Return every tensor's size and type."""
        return self._index.entries

    def fill(self, targets: dict[str, Tensor]) -> None:
        """Read from the shards that hold them, without communication."""
        if not targets:
            return
        with _damage_told(self.path), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process")
            dcp.load(targets, storage_reader=ShardReader(self.path, self._index), no_dist=True)

    def read(self, prefix: str = "") -> dict[str, Tensor]:
        """Return the whole tensors whose flat names start with a prefix."""
        entries = {name: entry for name, entry in self.entries().items() if name.startswith(prefix)}
        tensors = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in entries.items()}
        self.fill(tensors)
        return tensors


def open_source(path: Path) -> Source:
    """Open a checkpoint, folder or file.

    Raises:
        UserError: If it is missing, not whole, or not readable.
    """
    if is_folder(path):
        return FolderSource(path)
    return WholeSource(path, read_file(path))


def read_file(path: Path) -> dict[str, Any]:
    """Map a checkpoint's file into memory, without unpickling code.

    Raises:
        UserError: If it is missing, or no checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    with _damage_told(path):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: holds no dictionary of weights; choose another file")
    return checkpoint


def read_folder(path: Path, prefix: str = "") -> dict[str, Any]:
    """Read a folder in one process into the dictionary that a file holds.

    Args:
        path: The folder.
        prefix: What the flat names of tensors that are read start with.

    Raises:
        UserError: If it is not whole or not readable.
    """
    source = FolderSource(path)
    return join(source.read(prefix), source.rest)


def restore_weights(source: Source, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load a module's weights and buffers in place, each rank its part.

    Raises:
        UserError: If some are missing, foreign, or of another shape.
    """
    present = {f"{WEIGHTS}.{name}": value for name, value in state.items()}
    saved = {name: size for name, (size, _) in source.entries().items() if name.startswith(f"{WEIGHTS}.")}
    lacking, foreign = sorted(present.keys() - saved.keys()), sorted(saved.keys() - present.keys())
    if strict and (lacking or foreign):
        said = f"lacks {lacking[0]}" if lacking else f"holds {foreign[0]}, which this run has not"
        raise UserError(f"{source.path}: {said} ({len(lacking)} missing, {len(foreign)} foreign weights)")
    targets = {name: value for name, value in present.items() if name in saved}
    for name, value in targets.items():
        if value.shape != saved[name]:
            raise UserError(f"{source.path}: {name} is {tuple(saved[name])}, this run's {tuple(value.shape)}")
    source.fill(targets)


def restore_optimizer(source: Source, number: int, optimizer: torch.optim.Optimizer) -> None:
    """Load an optimizer's state, sharded as its parameters are, and its groups.

    Raises:
        UserError: If it was another optimizer's.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    prefix = f"{OPTIMIZER}.{number}."
    targets = {}
    for key, (size, dtype) in source.entries().items():
        if key.startswith(prefix):
            index = int(key.removeprefix(prefix).partition(".")[0])
            if index >= len(parameters):
                raise UserError(f"{source.path}: holds state of {index + 1} parameters, this run has {len(parameters)}")
            like = parameters[index].detach()
            targets[key] = torch.zeros_like(like, dtype=dtype) if like.shape == size else torch.zeros(size, dtype=dtype)
    source.fill(targets)
    with other_optimizer_told(source.path):
        optimizer.load_state_dict(join(targets, source.rest)["optimizer_states"][number])


@contextmanager
def other_optimizer_told(path: Path) -> Iterator[None]:
    """Turn what torch raises where an optimizer has other groups into a line."""
    try:
        yield
    except (ValueError, LookupError) as error:
        raise UserError(
            f"{path}: holds another optimizer's state ({error}); go on with the version and recipe that wrote it, or"
            " start a new run"
        ) from error


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (Exception, CheckpointException) as error:  # torch fails in many ways on damaged files
        raise UserError(f"{path}: not a readable checkpoint ({_in_words(error)}); {_way_on(path)}") from error


def _in_words(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        failed = error.failures[min(error.failures)]
        return _in_words(failed[0] if isinstance(failed, tuple) else failed)
    return str(error) if isinstance(error, DamagedShard) else type(error).__name__


def _way_on(path: Path) -> str:
    newest = newest_whole(path.resolve().parent, apart_from=path.resolve())
    return "copy it again, or " + ("choose another one" if newest is None else f"go on from {newest}, which is whole")
