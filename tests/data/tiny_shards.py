"""Writes small packed shards for tests, as the packer would: tars with images and records, and a manifest."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import webdataset

from arl_lightning.data.shards.manifest import Manifest, ShardInfo


def encode(image: np.ndarray, extension: str = "jpg") -> bytes:
    return cv2.imencode(f".{extension}", image)[1].tobytes()


def noise_image(index: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (height, width), np.uint8)


def write_shard(path: Path, members: Sequence[tuple[str, bytes]], anatomy: str = "breast") -> ShardInfo:
    """Write (key, encoded image) pairs as one shard."""
    with webdataset.TarWriter(str(path), mtime=0) as tar:
        for key, encoded in members:
            record = {"anatomy": anatomy, "source": "test", "name": key, "patient": None, "video": None}
            tar.write({"__key__": key, "jpg": encoded, "json": json.dumps(record).encode()})
    content = path.read_bytes()
    return ShardInfo(
        path.name, len(members), len(content), hashlib.sha256(content).hexdigest(), {anatomy: len(members)}
    )


def write_shards(folder: Path, sizes: Sequence[int], garbage: Sequence[int] = (), prefix: str = "k") -> Path:
    """Write shards of these sizes with keys k00000, k00001, ...; the images numbered in `garbage` are none."""
    folder.mkdir(parents=True, exist_ok=True)
    infos, start = [], 0
    for number, size in enumerate(sizes):
        members = [
            (f"{prefix}{i:05d}", b"no image" if i in garbage else encode(noise_image(i)))
            for i in range(start, start + size)
        ]
        infos.append(write_shard(folder / f"shard-{number:06d}.tar", members))
        start += size
    Manifest(tuple(infos)).save(folder)
    return folder
