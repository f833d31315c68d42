"""Writes shards from bytes that lie in other files, several at a time, and puts the manifest beside them last.

R places in the shards of one split.
"""

import hashlib
import json
import math
import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from arl_lightning.data.packing.spool import hash64, replacing, save_array, save_json
from arl_lightning.data.processes import run_jobs
from arl_lightning.data.shards.manifest import Manifest, ShardInfo
from arl_lightning.data.wording import human_size
from arl_lightning.errors import UserError

SHARD_PATTERN = "shard-*.tar"
PLACED_FILE = "placed.json"  # what was, or is about to be, moved into place


@dataclass(frozen=True)
class Contents:
    """What is to be written.

    Attributes:
        files: Where the bytes lie, by the index' numbers.
        index: (N,) of `spool.INDEX`.
        anatomies: Names by the index' numbers.
        sources: Likewise.
        orders: Split ("" without splits) -> (R,) places in the index.
        copies: Split -> (R,) which copy of its image stands there, from 0.
    """

    files: Sequence[Path]
    index: np.ndarray
    anatomies: Sequence[str]
    sources: Sequence[str]
    orders: Mapping[str, np.ndarray]
    copies: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Job:
    """One shard: places `start` to `stop` of a split's order."""

    work: Path
    out: Path
    split: str
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"shard-{self.number:06d}.tar"

    @property
    def draft(self) -> Path:
        """Where the shard waits until all are written."""
        return self.work / f"{self.split}-{self.name}"

    @property
    def place(self) -> Path:
        return self.out / self.split / self.name


def write_corpus(
    out: Path, work: Path, contents: Contents, samples_per_shard: int, fingerprint: str, processes: int
) -> dict[str, Manifest]:
    """Write all shards, move them to `out` (to a folder for each split), and the manifests last.

    Killed at any time and called again with the same arguments it goes on with what is missing: each shard is renamed
    into place whole, and its bytes follow from the contents alone.

    Args:
        out: The shards' folder.
        work: A folder in `out` for what is not ready; the caller deletes it in the end.
        contents: What to write.
        samples_per_shard: The most samples of a shard; shards of a split are equal in number within one sample.
        fingerprint: Kept in the manifests.
        processes: How many shards are written at once.

    Returns:
        The manifest of each split.
    """
    work.mkdir(parents=True, exist_ok=True)
    save_array(work / "index.npy", contents.index)
    names = {
        "files": [str(file) for file in contents.files],
        "anatomies": contents.anatomies,
        "sources": contents.sources,
    }
    save_json(work / "names.json", names)
    jobs = []
    for split, order in contents.orders.items():
        save_array(work / f"order-{split}.npy", order)
        save_array(work / f"copies-{split}.npy", contents.copies[split])
        jobs += _jobs(out, work, split, len(order), samples_per_shard)
    _write_shards(jobs, processes)
    _drop_stale(out, work.parent / PLACED_FILE, [job.place.relative_to(out).as_posix() for job in jobs])
    manifests = {}
    for split in contents.orders:
        (out / split).mkdir(exist_ok=True)
        own = [job for job in jobs if job.split == split]
        manifests[split] = Manifest(tuple(_read_info(job) for job in own), fingerprint)
        for job in own:
            if job.draft.exists():
                job.draft.replace(job.place)
        manifests[split].save(out / split)
    return manifests


def _drop_stale(out: Path, record: Path, places: list[str]) -> None:
    """Delete shards that a killed packing with other options had moved into place; note those of this one before.

    What no packing here has noted is somebody else's and stays.
    """
    former = json.loads(record.read_text(encoding="utf-8")) if record.exists() else []
    save_json(record, sorted({*former, *places}))
    for place in set(former) - set(places):
        (out / place).unlink(missing_ok=True)


def check_space(contents: Contents, out: Path) -> None:
    """Refuse to write shards that the disk cannot hold, before the first one.

    Raises:
        UserError: If there is too little space.
    """
    # Two headers and, on average, two halves of a block to fill up.
    sizes = contents.index["record_size"].astype(np.int64) + contents.index["image_size"] + 3 * tarfile.BLOCKSIZE
    needed = sum(int(sizes[order].sum()) for order in contents.orders.values())
    free = shutil.disk_usage(out).free + sum(path.stat().st_size for path in out.rglob(f"*{SHARD_PATTERN}"))
    if needed > free:
        raise UserError(
            f"{out}: {human_size(needed)} of shards for {human_size(free)} of free space; make room and run the same"
            " command again, it goes on from here"
        )


def _jobs(out: Path, work: Path, split: str, num_places: int, samples_per_shard: int) -> list[_Job]:
    num_shards = math.ceil(num_places / samples_per_shard)
    bounds = [number * num_places // num_shards for number in range(num_shards + 1)]
    return [_Job(work, out, split, number, bounds[number], bounds[number + 1]) for number in range(num_shards)]


def _write_shards(jobs: Sequence[_Job], processes: int) -> None:
    missing = [job for job in jobs if not (_info_path(job).is_file() and (job.draft.is_file() or job.place.is_file()))]
    num_done = len(jobs) - len(missing)
    if len(missing) <= 2 * processes:
        processes = 1  # a few shards are written sooner than processes have started
    with tqdm(total=len(jobs), initial=num_done, desc="write", unit=" shards", smoothing=0.05) as bar:
        for _ in run_jobs(_write_shard, missing, processes):
            bar.update()


def _info_path(job: _Job) -> Path:
    return job.work / f"{job.split}-{job.number:06d}.json"


def _read_info(job: _Job) -> ShardInfo:
    return ShardInfo(**json.loads(_info_path(job).read_text(encoding="utf-8")))


def _write_shard(job: _Job) -> None:
    index = np.load(job.work / "index.npy", mmap_mode="r")
    files, anatomies, sources = _names(job.work)
    order = np.load(job.work / f"order-{job.split}.npy", mmap_mode="r")[job.start : job.stop]
    copies = np.load(job.work / f"copies-{job.split}.npy", mmap_mode="r")[job.start : job.stop]
    rows = index[order]
    with replacing(job.draft) as file:
        tar = _HashedTar(file)
        for row, copy in zip(rows, copies, strict=True):
            record, encoded = _read_sample(files[row["file"]], row)
            key = sample_key(int(row["key"]), int(copy))
            tar.add(f"{key}.{'png' if row['is_png'] else 'jpg'}", encoded)
            tar.add(f"{key}.json", record)
        tar.close()
    counted = [
        {names[number]: int(count) for number, count in sorted(Counter(rows[field].tolist()).items())}
        for field, names in (("anatomy", anatomies), ("source", sources))
    ]
    info = ShardInfo(job.name, len(rows), tar.num_bytes, tar.sha256, *counted)
    save_json(_info_path(job), asdict(info))  # last: it says that the shard is whole


@lru_cache(maxsize=1)
def _names(work: Path) -> tuple[list[Path], list[str], list[str]]:
    names = json.loads((work / "names.json").read_text(encoding="utf-8"))
    return [Path(file) for file in names["files"]], names["anatomies"], names["sources"]


def sample_key(key: int, copy: int) -> str:
    """Return a sample's name in its shard; a further copy of an image has another one, and so draws of its own."""
    return f"{hash64(f'{key:016x}', 'copy', str(copy)) if copy else key:016x}"


def _read_sample(path: Path, row: np.void) -> tuple[bytes, bytes]:
    """Return a sample's record and image; reading them by place keeps packing from filling memory."""
    with path.open("rb") as file:
        file.seek(int(row["record_start"]))
        record = file.read(int(row["record_size"]))
        file.seek(int(row["image_start"]))
        encoded = file.read(int(row["image_size"]))
    if len(record) < row["record_size"] or len(encoded) < row["image_size"]:
        raise UserError(f"{path}: ends too early; delete the folder it lies in and pack again")
    return record, encoded


class _HashedTar:
    """A tar whose bytes depend on its members' names and contents alone, hashed as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    def add(self, name: str, content: bytes) -> None:
        """Append a member."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mode = 0o444
        info.uname = info.gname = "arl"
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        self._write(content)
        self._write(bytes(-len(content) % tarfile.BLOCKSIZE))

    def close(self) -> None:
        """Write the end of the archive."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.num_bytes % tarfile.RECORDSIZE))

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._hash.hexdigest()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.num_bytes += len(content)
