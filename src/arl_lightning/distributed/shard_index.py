"""The index of a checkpoint's folder: read once, without running what a pickle might hold, and held against its files.

The index is torch's `.metadata`, which says for every tensor which bytes of which shard hold it.
"""

import pickle
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.futures import Future

META, SHARDS = "meta.pt", ".metadata"

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


class NotWhole(Exception):  # noqa: N818 (a state, as others see it)
    """What a folder lacks, in words."""


class DamagedShard(Exception):  # noqa: N818
    """Which file could not be read, and why."""


class _ForeignType(pickle.UnpicklingError):
    """A type that no index is made of."""


@dataclass(frozen=True)
class ShardIndex:
    """What a folder's index says.

    Attributes:
        metadata: torch's own form of it.
        entries: Size and type of every tensor, by flat name.
        num_bytes: That each file of shards has at least.
    """

    metadata: Metadata
    entries: dict[str, tuple[torch.Size, torch.dtype]]
    num_bytes: dict[str, int]


def read_index(folder: Path) -> ShardIndex:
    """Read a folder's index and see that all files are there in full length.

    Raises:
        NotWhole: If they are not, or the index cannot be used.
    """
    for name in (META, SHARDS):
        if not (folder / name).is_file():
            raise NotWhole(f"no {name}")
    if not zipfile.is_zipfile(folder / META):
        raise NotWhole(f"{META} is cut")
    index = _parse(folder / SHARDS)
    for name, needed in sorted(index.num_bytes.items()):
        if not (folder / name).is_file():
            raise NotWhole(f"no {name}")
        if (found := (folder / name).stat().st_size) < needed:
            raise NotWhole(f"{name} is cut, {found} bytes of {needed}")
    return index


def _parse(path: Path) -> ShardIndex:
    try:
        with path.open("rb") as file:
            metadata = _IndexUnpickler(file).load()
        num_bytes: dict[str, int] = {}
        for info in metadata.storage_data.values():
            num_bytes[info.relative_path] = max(num_bytes.get(info.relative_path, 0), info.offset + info.length)
        stored = metadata.state_dict_metadata.items()
        entries = {
            name: (torch.Size(of.size), of.properties.dtype)
            for name, of in stored
            if isinstance(of, TensorStorageMetadata)
        }
        return ShardIndex(metadata, entries, num_bytes)
    except _ForeignType as error:
        raise NotWhole(f"{SHARDS} holds {error}, so another version of torch wrote it or it is damaged") from error
    except Exception as error:  # a damaged pickle fails in any way
        raise NotWhole(f"{SHARDS} is damaged, {type(error).__name__}") from error


class ShardReader(dcp.FileSystemReader):
    """Reads shards by an index that is read already, and names the file that is damaged."""

    def __init__(self, folder: Path, index: ShardIndex) -> None:
        super().__init__(folder)
        self.index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return what has been read."""
        return self.index.metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read one file after the other.

        Raises:
            DamagedShard: If one cannot be read.
        """
        by_file: dict[str, list[Any]] = {}
        for item in plan.items:
            by_file.setdefault(self.storage_data[item.storage_index].relative_path, []).append(item)
        for name, items in by_file.items():
            try:
                super().read_data(replace(plan, items=items), planner)
            except Exception as error:
                words = " ".join(f"{type(error).__name__}: {error}".split())
                raise DamagedShard(f"{name}, {words[:120]}") from error
        done: Future[None] = Future()
        done.set_result(None)
        return done


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _INDEX_TYPES.get(module, ()):
            raise _ForeignType(f"{module}.{name}")
        return super().find_class(module, name)
