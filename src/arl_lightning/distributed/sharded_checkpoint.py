"""Checkpoints that are folders: shards of torch.distributed.checkpoint, and `meta.pt` with all that is no such tensor.

Tensors have flat names: `weights.NAME`, and `optimizer.NUMBER.INDEX.STATE` for the INDEX-th parameter in the order of
an optimizer's groups, which does not depend on how a run is distributed. A folder gets its name once it is whole.
"""

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

from arl_lightning.errors import UserError

META, SHARDS = "meta.pt", ".metadata"
WEIGHTS, OPTIMIZER = "weights", "optimizer"

# All that torch's index of shards is made of; anything else in that pickle is refused.
_INDEX_TYPES = {
    "torch.distributed.checkpoint.metadata": (
        *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta"),
        *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch": ("Size", *sorted(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))),
    "torch.serialization": ("_get_layout",),
}


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
    """Return whether a checkpoint, file or folder, has all its parts; a cut file has lost its end."""
    return _lacking(path) is None if path.is_dir() else path.is_file() and zipfile.is_zipfile(path)


def newest_whole(folder: Path) -> Path | None:
    """Return the step's checkpoint in a folder that was written last; what is not whole does not count."""
    files = [path for path in folder.glob("step-*.ckpt") if not path.is_symlink()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if is_whole(path):
            return path
    return None


def _lacking(path: Path) -> str | None:
    """Name the first part that a folder has not."""
    for name in (META, SHARDS):
        if not (path / name).is_file():
            return name
    try:
        files = {info.relative_path for info in _Reader(path).read_metadata().storage_data.values()}
    except (OSError, EOFError, ValueError, pickle.UnpicklingError):
        return f"readable {SHARDS}"
    return next((name for name in sorted(files) if not (path / name).is_file()), None)


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
        if (name := _lacking(path)) is not None:
            newest = newest_whole(path.resolve().parent)
            advice = "copy it again" if newest is None else f"copy it again, or go on from {newest}, which is whole"
            raise UserError(f"{path}: is incomplete (no {name}); {advice}")
        with _damage_told(path):
            self.rest: dict[str, Any] = torch.load(path / META, map_location="cpu", weights_only=True)

    @cached_property
    def _index(self) -> Metadata:
        return _Reader(self.path).read_metadata()

    def entries(self) -> Mapping[str, tuple[torch.Size, torch.dtype]]:
        """Return every tensor's size and type."""
        stored = self._index.state_dict_metadata.items()
        return {name: (of.size, of.properties.dtype) for name, of in stored if isinstance(of, TensorStorageMetadata)}

    def fill(self, targets: dict[str, Tensor]) -> None:
        """Read from the shards that hold them, without communication."""
        if not targets:
            return
        with _damage_told(self.path), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process")
            dcp.load(targets, storage_reader=_Reader(self.path), no_dist=True)

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
    optimizer.load_state_dict(join(targets, source.rest)["optimizer_states"][number])


class _Reader(dcp.FileSystemReader):
    """Reads the index of shards without running what a pickle might hold."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / SHARDS).open("rb") as file:
            metadata = _IndexUnpickler(file).load()
        if not isinstance(metadata, Metadata) or not isinstance(metadata.storage_data, dict):
            raise pickle.UnpicklingError("not an index of shards")
        return metadata


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _INDEX_TYPES.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into an index of shards")
        return super().find_class(module, name)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (Exception, CheckpointException) as error:  # torch fails in many ways on damaged files
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}); choose another one") from error
