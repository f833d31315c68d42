"""Packs folders of small images, and reads what was packed, for several test files."""

import contextlib
import json
from pathlib import Path

import cv2
import numpy as np
import webdataset
from PIL import Image

from arl_lightning.data.packing.command import pack_sources


def make_images(root: Path, num_good: int, num_bad: int = 0, first: int = 0) -> Path:
    root.mkdir(parents=True)
    for index in range(first, first + num_good):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 48), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"good{index:02d}.png")
    for index in range(num_bad):
        (root / f"bad{index:02d}.png").write_bytes(b"no image")
    return root


def pack_folder(root: Path, out: Path, anatomy: str = "breast", options: dict | None = None, **more) -> str:
    return pack_sources(out, source="folder", root=root, anatomy=anatomy, options=options or {}, processes=1, **more)


def stored(out: Path) -> list[tuple[dict, bytes]]:
    """Read shards as any other program would."""
    shards = sorted(str(path) for path in out.glob("shard-*.tar"))
    items = webdataset.WebDataset(shards, shardshuffle=False)
    return [(json.loads(item["json"]), item.get("jpg") or item["png"]) for item in items]


def records(out: Path) -> list[dict]:
    return [record for record, _ in stored(out)]


def decode(encoded: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def file_bytes(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


class StoppedError(BaseException):
    """Stands for a kill."""


def stopped_after(num_renames, monkeypatch, work):
    rename, left = Path.replace, [num_renames]

    def counted(path, target):
        if left[0] == 0:
            raise StoppedError
        left[0] -= 1
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", counted)
    with contextlib.suppress(StoppedError):
        work()
    monkeypatch.setattr(Path, "replace", rename)
