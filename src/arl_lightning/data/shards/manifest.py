"""The checksummed inventory of a folder of shards."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arl_lightning.errors import UserError

FILE_NAME = "manifest.json"
FORMAT = "arl-shards/1"

MAX_SHOWN = 60  # characters of a wrong value

_SHA256 = re.compile("[0-9a-f]{64}")


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
        try:
            if not folder.is_dir():
                raise UserError(f"{folder}: no such folder; pack shards into it with `arl shards pack --out {folder}`")
            if not path.is_file():
                splits = sorted(str(each.parent) for each in folder.glob(f"*/{FILE_NAME}"))
                if splits:
                    raise UserError(f"{path}: missing; name one of its splits, {' or '.join(splits)}")
                raise UserError(
                    f"{path}: missing; this folder holds no packed shards (pack them with `arl shards pack --out"
                    f" {folder}`)"
                )
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); see to its permissions") from error
        return cls.parse(text, str(path))

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
            shards = tuple(map(_shard, _checked("shards", content["shards"], lambda value: isinstance(value, list))))
            fingerprint = _checked("fingerprint", content.get("fingerprint", ""), _is_text)
        except KeyError as error:
            raise UserError(f"{path}: not a shard manifest (no {error}); pack the shards again") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: not a shard manifest ({error}); pack the shards again") from error
        if not any(shard.num_samples for shard in shards):
            raise UserError(f"{path}: lists no samples; pack a source that has images")
        return cls(shards, fingerprint)


def _shard(entry: Any) -> ShardInfo:
    """Return a manifest's entry, if it is one; a ValueError names what is wrong with it."""
    _checked("a shard", entry, lambda value: isinstance(value, dict))
    if strange := entry.keys() - _CHECKS.keys():
        raise ValueError(f"a shard has '{min(strange)}', which is unknown")
    for key, value in entry.items():
        _checked(key, value, _CHECKS[key])
    if missing := [key for key in _CHECKS if key not in entry and key != "sources"]:
        raise ValueError(f"a shard has no '{missing[0]}'")
    return ShardInfo(**entry)


def _checked(key: str, value: Any, check: Callable[[Any], bool]) -> Any:
    if not check(value):
        raise ValueError(f"{key} is {json.dumps(value)[:MAX_SHOWN]}")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and "/" not in value and value not in ("", ".", "..")


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "name": _is_file_name,
    "num_samples": _is_count,
    "num_bytes": _is_count,
    "sha256": _is_sha256,
    "anatomies": _is_counts,
    "sources": _is_counts,
}
