"""Works out what a run will need of its shards, and refuses what would starve or hang: `arl shards preflight`."""

import math
from pathlib import Path

from arl_lightning.arguments import positional
from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.data.shards.manifest import ShardInfo
from arl_lightning.data.stream.corpus import Corpus
from arl_lightning.data.stream.epoch import batches_per_epoch
from arl_lightning.data.stream.storage import Folder, Shard
from arl_lightning.data.tuning.needs import Loading, Run, Speed, memory_of_node
from arl_lightning.data.tuning.preflight_report import PreflightReport
from arl_lightning.data.tuning.stages import measure_stages
from arl_lightning.errors import UserError

# Shards whose images are decoded to measure the speed.
NUM_MEASURED = 4

Folders = list[tuple[Folder, ShardInfo]]


@positional("shards")
def preflight(
    shards: list[str] | str,
    nodes: int = 1,
    gpus_per_node: int = 1,
    workers: int = 10,
    batch_size: int = 64,
    cores_per_node: int | None = None,
    memory_per_node: float | None = None,
    images_per_second_per_gpu: float = 300.0,
    images_per_second_per_core: float | None = None,
    check_files: bool = False,
    in_chans: int = 1,
    num_global_views: int = 2,
    global_size: int = 224,
    num_local_views: int = 8,
    local_size: int = 96,
    open_shards: int = 4,
    prefetch_factor: int = 2,
    pin_memory: bool = True,
    num_images: int = 384,
) -> PreflightReport:
    """Work out before a run what it will need, and refuse what would starve or hang.

    Args:
        shards: Folder of packed shards, or several; addresses too, as for pretraining.
        nodes: Machines.
        gpus_per_node: GPUs of each, one rank a GPU.
        workers: Worker processes of each rank.
        batch_size: Images in a batch of one rank.
        cores_per_node: Cores of a node that the run may use; not judged if left out.
        memory_per_node: Memory of a node for batches, in GB; not judged if left out.
        images_per_second_per_gpu: What one GPU trains on. The default is an assumption: measure your own.
        images_per_second_per_core: What one core decodes and crops; by default measured here, on these shards.
        check_files: See that every local shard is there with its size.
        in_chans: Channels of an image, 1 for grey or 3 for RGB.
        num_global_views: Large crops of an image.
        global_size: Side of a large crop in pixels.
        num_local_views: Small crops of an image, 0 for none.
        local_size: Side of a small crop in pixels.
        open_shards: Shards that a worker reads in turn.
        prefetch_factor: Batches that each worker prepares ahead.
        pin_memory: Whether batches are copied to page-locked memory.
        num_images: Images to measure with.

    Returns:
        The report, for printing.

    Raises:
        UserError: If shards or a batch are lacking for a rank or worker, if workers, cores or memory do not suffice,
            or if shards cannot be read. It names the number to change, and to what.
    """
    addresses = [shards] if isinstance(shards, str) else list(shards)
    run = Run(nodes, gpus_per_node, workers, batch_size)
    loading = Loading(open_shards, prefetch_factor, pin_memory)
    found = _listed(addresses, check_files)
    num_shards, num_samples = len(found), sum(info.num_samples for _, info in found)
    record_bytes = sum(info.num_bytes for _, info in found) / num_samples
    refuse_too_little(run, num_shards, num_samples)
    num_batches = batches_per_epoch(num_samples, num_shards, run.world_size, workers, batch_size)
    data = PretrainingDataModule(
        addresses, batch_size, 0, in_chans, num_global_views=num_global_views, global_size=global_size,
        num_local_views=num_local_views, local_size=local_size, open_shards=open_shards, read_retries=0,
    )  # fmt: skip
    given = images_per_second_per_core
    per_core = given if given is not None else _measure(data, found, num_images)
    speed = Speed(_above_zero("gpu", images_per_second_per_gpu), _above_zero("core", per_core), given is None)
    tensors = (num_global_views * in_chans * global_size**2, num_local_views * in_chans * local_size**2)
    memory = memory_of_node(run, loading, record_bytes, tensors)
    refuse_starving(run, speed, num_shards, cores_per_node)
    if memory_per_node is not None and memory.total > 1e9 * memory_per_node:
        refuse_memory(run, loading, record_bytes, tensors, memory_per_node)
    return PreflightReport(run, loading, num_shards, num_samples, record_bytes, num_batches, speed, memory, check_files)


def refuse_too_little(run: Run, num_shards: int, num_samples: int) -> None:
    """Refuse fewer shards than ranks x workers, or less than a batch for each rank.

    Raises:
        UserError: With the number that would do.
    """
    ranks, slots = run.world_size, run.num_slots
    pack = (
        f"pack at least {slots:,} shards (--samples_per_shard {num_samples // slots})" if num_samples >= slots else ""
    )
    if num_shards < ranks:
        ways = " or ".join(filter(None, [f"use {num_shards} GPUs at most (--nodes, --gpus_per_node)", pack]))
        raise UserError(f"{num_shards:,} shards for {ranks:,} ranks x {run.readers} workers: {ways}")
    if num_shards < slots:
        ways = " or ".join(filter(None, [f"use --workers {num_shards // ranks} at most", pack]))
        raise UserError(f"{num_shards:,} shards for {ranks:,} ranks x {run.readers} workers: {ways}")
    if num_samples < ranks * run.batch_size:
        raise UserError(
            f"{num_samples:,} samples for {ranks:,} ranks x batches of {run.batch_size}: use --batch_size"
            f" {num_samples // ranks} at most"
        )


def refuse_starving(run: Run, speed: Speed, num_shards: int, cores_per_node: int | None) -> None:
    """Refuse workers or cores that decode less than the GPUs take.

    Raises:
        UserError: With the number that would do.
    """
    smaller = "pack smaller images (--short_side)"
    enough = math.ceil(speed.cores_per_gpu)
    if run.readers < enough:
        more = f" and pack at least {enough * run.world_size:,} shards" if enough * run.world_size > num_shards else ""
        raise UserError(
            f"--workers {run.workers}: give {run.readers * speed.per_core:,.0f} img/s where a GPU takes"
            f" {speed.per_gpu:,.0f}: use --workers {enough} at least{more}, or {smaller}"
        )
    needed = speed.cores_per_node(run)
    if cores_per_node is not None and needed > cores_per_node:
        raise UserError(
            f"--cores_per_node {cores_per_node}: {run.gpus_per_node} GPUs need {needed}, each {speed.cores_per_gpu:.2f}"
            f" to decode {speed.per_gpu:,.0f} img/s and 1 to train: give {needed} cores, or {smaller}"
        )


def refuse_memory(run: Run, loading: Loading, record_bytes: float, tensors: tuple[int, int], gigabytes: float) -> None:
    """Say how many workers, or else how large a batch, would fit.

    Raises:
        UserError: Always.
    """

    def need(workers: int, batch_size: int) -> float:
        smaller = Run(run.nodes, run.gpus_per_node, workers, batch_size)
        return memory_of_node(smaller, loading, record_bytes, tensors).total / 1e9

    needed = need(run.workers, run.batch_size)
    fitting = [
        *(f"--workers {n}" for n in range(run.workers - 1, 0, -1) if need(n, run.batch_size) <= gigabytes),
        *(f"--batch_size {n}" for n in range(run.batch_size - 1, 0, -1) if need(run.workers, n) <= gigabytes),
    ]
    way = f", or use {fitting[0]} at most" if fitting else ""
    raise UserError(f"--memory_per_node {gigabytes:g}: batches need {needed:.2f} GB: give {math.ceil(needed)} GB{way}")


def _above_zero(name: str, rate: float) -> float:
    if rate <= 0:
        raise UserError(f"--images_per_second_per_{name} {rate:g}: must be above 0")
    return rate


def _listed(addresses: list[str], check_files: bool) -> Folders:
    """Return all shards with samples, by their manifests alone unless the files are to be looked at."""
    if check_files:
        Corpus.load([Path(each) if Folder(each).is_local else each for each in addresses])
    folders = [Folder(address) for address in addresses]
    return [(folder, info) for folder in folders for info in folder.manifest().shards if info.num_samples]


def _measure(data: PretrainingDataModule, found: Folders, num_images: int) -> float:
    """Return the images that one core turns into batches each second, by a few shards from all over the corpus."""
    some = [found[index * len(found) // NUM_MEASURED] for index in range(NUM_MEASURED)] if len(found) > 4 else found
    shards = [Shard(folder.url(info.name), info.num_samples, info.num_bytes, info.sha256) for folder, info in some]
    data.corpus = Corpus(tuple(shards), {})
    data.batch_size = min(data.batch_size, data.corpus.num_samples)
    return 1 / measure_stages(data, num_images, rounds=3).whole
