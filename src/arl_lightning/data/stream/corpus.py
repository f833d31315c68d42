"""The shards of a corpus: what the manifests say of them, in an order that does not depend on where they lie."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.stream.storage import Folder, Shard
from arl_lightning.errors import UserError


@dataclass(frozen=True)
class Corpus:
    """The shards of one or more packed folders, sorted by checksum, with the number of samples of each anatomy."""

    shards: tuple[Shard, ...]
    anatomies: dict[str, int]

    def __post_init__(self) -> None:
        # A shard's index stands for its content in checkpoints, wherever and in whatever order the folders lie.
        object.__setattr__(self, "shards", tuple(sorted(self.shards, key=lambda shard: shard.sha256)))

    @classmethod
    def load(cls, folders: Sequence[Path | str]) -> "Corpus":
        """Read the folders' manifests and see that every shard that lies in a local one is there at its full size.

        Args:
            folders: Local folders, or addresses as `storage.Folder` takes them.

        Raises:
            UserError: If a manifest cannot be read or is not one of ours, or a local shard is missing or of another
                size.
        """
        shards: list[Shard] = []
        anatomies: Counter[str] = Counter()
        for folder in (Folder(str(address)) for address in folders):
            manifest = folder.manifest()
            anatomies.update(manifest.anatomies)
            found = [
                Shard(folder.url(info.name), info.num_samples, info.num_bytes, info.sha256)
                for info in manifest.shards
                if info.num_samples
            ]
            if folder.is_local:
                _check_files(found)
            shards += found
        return cls(tuple(shards), dict(anatomies))

    @property
    def num_samples(self) -> int:
        """Samples in all shards together."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Size of all shards together."""
        return sum(shard.num_bytes for shard in self.shards)

    @property
    def sha256(self) -> str:
        """Identifies the shards' contents."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()


def _check_files(shards: Sequence[Shard]) -> None:
    sizes = {shard: _size(Path(shard.url)) for shard in shards}
    missing = [shard for shard, size in sizes.items() if size is None]
    if missing:
        raise UserError(
            f"{missing[0].url}: missing, {len(missing)} of {len(shards)} shards are; copy them again, or pack again"
        )
    unequal = [(shard, size) for shard, size in sizes.items() if size != shard.num_bytes]
    if unequal:
        shard, size = unequal[0]
        raise UserError(
            f"{shard.url}: {size} bytes where the manifest says {shard.num_bytes}, {len(unequal)} of {len(shards)}"
            " shards differ; copy them again, or pack again"
        )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
