"""Packs samples, in one global shuffle, into WebDataset shards and their manifest.

Shapes: an image is uint8, (H, W) grey or (H, W, 3) RGB. Packing needs twice the shards' size on disk for a while, and
about 30 bytes of memory a sample.
"""

import hashlib
import json
import math
import shutil
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import cv2
import numpy as np
import webdataset

from arl_lightning.data.shards.manifest import FILE_NAME, Manifest, ShardInfo
from arl_lightning.data.shards.sample import Record, Sample
from arl_lightning.errors import UserError

SHARD_PATTERN = "shard-*.tar"
WORK_FOLDER = ".packing"


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    Attributes:
        image_format: `jpg` or, lossless, `png`.
        quality: Of a JPEG, 1 to 100.
        short_side: Images with a longer short side are scaled down to it; None keeps every size.

    Raises:
        UserError: If a value is out of its range.
    """

    image_format: Literal["jpg", "png"] = "jpg"
    quality: int = 92
    short_side: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality}: must be 1 to 100")
        if self.short_side is not None and self.short_side < 1:
            raise UserError(f"--short_side {self.short_side}: must be at least 1 pixel, or null to keep every size")

    def scale_down(self, image: np.ndarray) -> np.ndarray:
        """Return the image with at most `short_side` pixels on its shorter side."""
        height, width = image.shape[:2]
        if self.short_side is None or min(height, width) <= self.short_side:
            return image
        scale = self.short_side / min(height, width)
        size = (round(width * scale), round(height * scale))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)

    def encode(self, image: np.ndarray) -> bytes:
        """Return the bytes of a .jpg or .png file."""
        pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        options = [cv2.IMWRITE_JPEG_QUALITY, self.quality] if self.image_format == "jpg" else []
        done, encoded = cv2.imencode(f".{self.image_format}", pixels, options)
        if not done:
            raise ValueError(f"image of shape {image.shape} and type {image.dtype} cannot be encoded")
        return encoded.tobytes()


class ShardWriter:
    """Collects samples in a spool file, then writes them shuffled: shards first, the manifest last.

    Use it as a context manager. Everything stays in a work folder inside of `out` until `finish`, so a crash before it
    leaves neither a shard nor a manifest; leaving the context, or the next writer, removes that folder. A kill among
    its last renames leaves shards without a manifest, which the next writer refuses by name. The same samples and seed
    give the same bytes.

    Args:
        out: The shards' folder, made if missing.
        samples_per_shard: The most samples of a shard; shards are equal in number within one sample.
        encoding: How images are stored.
        seed: Of the shuffle.

    Raises:
        UserError: If `out` holds shards already or cannot be made, or a number is out of its range.
    """

    def __init__(
        self, out: Path, samples_per_shard: int = 2000, encoding: Encoding | None = None, seed: int = 0
    ) -> None:
        if samples_per_shard < 1:
            raise UserError(f"--samples_per_shard {samples_per_shard}: must be at least 1")
        if seed < 0:
            raise UserError(f"--seed {seed}: must be at least 0")
        self.out = out
        self.samples_per_shard = samples_per_shard
        self.encoding = encoding or Encoding()
        self.seed = seed
        self._keys = array("Q")
        self._ends = array("Q")  # of each sample's record, then of its image
        self._work = out / WORK_FOLDER
        _refuse_packed(out)
        _make_empty(self._work)
        self._spool = (self._work / "spool").open("w+b")

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._spool.close()
        shutil.rmtree(self._work, ignore_errors=True)

    @property
    def num_samples(self) -> int:
        """Samples added so far."""
        return len(self._keys)

    def add(self, sample: Sample) -> None:
        """Encode a sample and append it to the spool."""
        image = self.encoding.scale_down(sample.image)
        encoded = self.encoding.encode(image)
        record = _record(sample, image.shape[0], image.shape[1], hashlib.sha256(encoded).hexdigest())
        self._spool.write(json.dumps(record, sort_keys=True, separators=(",", ":")).encode())
        self._ends.append(self._spool.tell())
        self._spool.write(encoded)
        self._ends.append(self._spool.tell())
        self._keys.append(_key(sample))

    def finish(self) -> Manifest:
        """Write the shards and the manifest.

        Raises:
            UserError: If no sample was added.
            ValueError: If two samples of a source have one name.
        """
        if not self.num_samples:
            raise UserError(f"{self.out}: there is no sample to pack")
        if np.unique(np.frombuffer(self._keys, np.uint64)).size < self.num_samples:
            raise ValueError("two samples have the same source and name; a reader must give every sample its own")
        num_shards = math.ceil(self.num_samples / self.samples_per_shard)
        order = np.random.default_rng(self.seed).permutation(self.num_samples)
        parts = np.array_split(order, num_shards)
        manifest = Manifest(
            tuple(self._write_shard(f"shard-{index:06d}.tar", part) for index, part in enumerate(parts))
        )
        for shard in manifest.shards:
            (self._work / shard.name).replace(self.out / shard.name)
        manifest.save(self.out)
        return manifest

    def _write_shard(self, name: str, indices: np.ndarray) -> ShardInfo:
        anatomies: Counter[str] = Counter()
        path = self._work / name
        # A fixed time and owner: the bytes depend on the samples alone.
        with (
            path.open("wb") as file,
            webdataset.TarWriter(file, encoder=False, user="arl", group="arl", mtime=0) as tar,
        ):
            for index in indices:
                record, encoded = self._read_spool(int(index))
                anatomies[json.loads(record)["anatomy"]] += 1
                key = f"{self._keys[index]:016x}"
                tar.write({"__key__": key, self.encoding.image_format: encoded, "json": record})
        with path.open("rb") as shard:
            digest = hashlib.file_digest(shard, "sha256").hexdigest()
        return ShardInfo(name, len(indices), path.stat().st_size, digest, dict(sorted(anatomies.items())))

    def _read_spool(self, index: int) -> tuple[bytes, bytes]:
        start = self._ends[2 * index - 1] if index else 0
        middle, end = self._ends[2 * index], self._ends[2 * index + 1]
        self._spool.seek(start)
        return self._spool.read(middle - start), self._spool.read(end - middle)


def _record(sample: Sample, height: int, width: int, sha256: str) -> Record:
    spacing = sample.spacing_mm
    if spacing is not None:  # a smaller picture of the same field of view has larger pixels
        spacing = (spacing[0] * sample.image.shape[0] / height, spacing[1] * sample.image.shape[1] / width)
    return Record(
        anatomy=sample.anatomy,
        source=sample.source,
        name=sample.name,
        patient=sample.patient,
        video=sample.video,
        frame=sample.frame,
        height=height,
        width=width,
        probe=sample.probe,
        spacing_mm=spacing,
        sha256=sha256,
    )


def _key(sample: Sample) -> int:
    """Return 64 bits that identify a sample: among 5 million, two collide with a chance below 1e-6."""
    identity = f"{sample.source}\0{sample.name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(identity).digest()[:8], "big")


def _refuse_packed(out: Path) -> None:
    present = [path.name for path in (out / FILE_NAME, *sorted(out.glob(SHARD_PATTERN))) if path.exists()]
    if present:
        raise UserError(f"{out}: holds {present[0]} already; choose another --out folder or delete this one")


def _make_empty(work: Path) -> None:
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{work.parent}: cannot be made or written ({error.strerror}); choose another --out") from error
