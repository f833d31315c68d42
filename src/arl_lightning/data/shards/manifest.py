"""The checksummed inventory of a folder of shards."""

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arl_lightning.errors import UserError

FILE_NAME = "manifest.json"
FORMAT = "arl-shards/1"


@dataclass(frozen=True)
class ShardInfo:
    """One shard: its file name, what it holds, and the sha256 of the whole tar.

    Attributes:
        anatomies: Samples of each anatomy.
        sources: Samples of each source; empty where the shard was packed before this was counted.
    """

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    anatomies: dict[str, int]
    sources: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """All shards of one folder, in packing order.

    Attributes:
        fingerprint: Tells what the shards were packed from and how; empty where that was not recorded.
    """

    shards: tuple[ShardInfo, ...]
    fingerprint: str = ""

    @property
    def num_samples(self) -> int:
        """Samples in all shards together."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def anatomies(self) -> dict[str, int]:
        """Samples of each anatomy, the most frequent first."""
        return dict(sum((Counter(shard.anatomies) for shard in self.shards), Counter()).most_common())

    @property
    def sources(self) -> dict[str, int]:
        """Samples of each source, the most frequent first."""
        return dict(sum((Counter(shard.sources) for shard in self.shards), Counter()).most_common())

    def save(self, folder: Path) -> None:
        """Write `manifest.json` into the folder, under a temporary name first."""
        content = {
            "format": FORMAT,
            "num_samples": self.num_samples,
            "anatomies": self.anatomies,
            "sources": self.sources,
            "fingerprint": self.fingerprint,
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }
        temporary = folder / f"{FILE_NAME}.tmp"
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.replace(folder / FILE_NAME)

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read the folder's manifest.

        Raises:
            UserError: If the folder or its manifest is missing, or the manifest is not one of ours.
        """
        path = folder / FILE_NAME
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; pack shards into it with `arl shards pack --out {folder}`")
        if not path.is_file():
            raise UserError(
                f"{path}: missing; this folder holds no packed shards (pack them with `arl shards pack --out {folder}`)"
            )
        return cls.parse(path.read_text(encoding="utf-8", errors="replace"), str(path))

    @classmethod
    def parse(cls, text: str, path: str) -> "Manifest":
        """Read a manifest's text; `path` names it in errors.

        Raises:
            UserError: If it is not one of ours.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            if content["format"] != FORMAT:
                raise UserError(f"{path}: format '{content['format']}' is not '{FORMAT}'; pack the shards again")
            shards = tuple(ShardInfo(**shard) for shard in content["shards"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a shard manifest ({error}); pack the shards again") from error
        if not any(shard.num_samples for shard in shards):
            raise UserError(f"{path}: lists no samples; pack a source that has images")
        return cls(shards, content.get("fingerprint", ""))
