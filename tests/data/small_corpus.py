"""Writes small corpora with whole records for tests, shard by shard, so that a test can put any fault into them."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import webdataset

from arl_lightning.data.shards.manifest import Manifest, ShardInfo


@dataclass
class Item:
    """One sample: its image's bytes and its record, both open to alteration."""

    key: str
    encoded: bytes
    record: dict[str, Any]
    extension: str = "jpg"
    more: dict[str, bytes] = field(default_factory=dict)


def make_item(index: int, shape: tuple[int, ...] = (24, 32), extension: str = "jpg", **record: Any) -> Item:
    image = np.random.default_rng(index).integers(0, 256, shape, np.uint8)
    encoded = cv2.imencode(f".{extension}", image)[1].tobytes()
    whole = {
        "anatomy": "breast", "source": "set", "name": f"{index}.png", "patient": None, "video": None, "frame": None,
        "height": shape[0], "width": shape[1], "probe": None, "spacing_mm": None,
        "sha256": hashlib.sha256(encoded).hexdigest(), **record,
    }  # fmt: skip
    return Item(f"{0xABC0 + index:016x}", encoded, whole, extension)


def write_tar(path: Path, items: Sequence[Item]) -> ShardInfo:
    with webdataset.TarWriter(str(path), encoder=False, mtime=0) as tar:
        for item in items:
            record = json.dumps(item.record).encode()
            tar.write({"__key__": item.key, item.extension: item.encoded, "json": record, **item.more})
    content = path.read_bytes()
    anatomies = Counter(str(item.record.get("anatomy")) for item in items)
    sources = Counter(str(item.record.get("source")) for item in items)
    return ShardInfo(
        path.name, len(items), len(content), hashlib.sha256(content).hexdigest(), dict(anatomies), dict(sources)
    )


def write_corpus(folder: Path, shards: Sequence[Sequence[Item]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Manifest(tuple(write_tar(folder / f"shard-{number:06d}.tar", items) for number, items in enumerate(shards))).save(
        folder
    )
    return folder


def make_items(num_shards: int = 3, num_items: int = 4) -> list[list[Item]]:
    return [[make_item(num_items * shard + index) for index in range(num_items)] for shard in range(num_shards)]
