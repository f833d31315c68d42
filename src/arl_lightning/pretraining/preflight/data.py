"""Whether shards are enough for a recipe's ranks and workers, and its workers for its GPUs, in the recipe's words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.data.stream.epoch import batches_per_epoch
from arl_lightning.data.tuning import preflight as shards
from arl_lightning.data.tuning.needs import Loading, Memory, Run, memory_of_node
from arl_lightning.data.wording import count, human_size
from arl_lightning.errors import UserError
from arl_lightning.pretraining.allocation import Ranks

NUM_MEASURED = 128  # images, which take a second or two
ASSUMED_RATE = 300.0  # images a second of one GPU, where nobody has measured it

# Options of `arl shards preflight`, and what they are here.
KEYS = {
    "--nodes": "--trainer.num_nodes",
    "--gpus_per_node": "--trainer.devices",
    "--workers": "--data.num_workers",
    "--batch_size": "--data.batch_size",
    "--cores_per_node": "--cores",
    "--memory_per_node": "--memory",
    "--samples_per_shard": "arl shards pack --samples_per_shard",
    "--short_side": "arl shards pack --short_side",
}


@dataclass(frozen=True)
class Needs:
    """What loading takes.

    Attributes:
        sharing: Who gets how much of an epoch, in words.
        memory: Of a node, for batches.
    """

    sharing: str
    memory: Memory

    def memory_said(self, given: float | None) -> str:
        """Put the memory into words."""
        of = "" if given is None else f" of {human_size(1e9 * given)}"
        shared = human_size(self.memory.shared)
        return f"batches take {human_size(self.memory.total)}{of} of a node at most, {shared} of it in /dev/shm"


def loading_needs(data: PretrainingDataModule, ranks: Ranks, memory_gb: float | None) -> Needs:
    """Return what a run's loading takes.

    Raises:
        UserError: If shards or a batch are lacking for a rank or worker, or batches do not fit the memory.
    """
    run = Run(ranks.nodes, ranks.per_node, data.num_workers, data.batch_size)
    corpus, crops, in_chans = data.corpus, data.transform.multi_crop, data.transform.in_chans
    num_shards, num_samples = len(corpus.shards), corpus.num_samples
    loading = Loading(data.open_shards, data.prefetch_factor, data.pin_memory)
    tensors = (
        crops.num_global * in_chans * crops.global_size**2,
        crops.num_local * in_chans * crops.local_size**2,
    )
    record_bytes = sum(shard.num_bytes for shard in corpus.shards) / num_samples
    with _in_the_recipes_words():
        shards.refuse_too_little(run, num_shards, num_samples)
        memory = memory_of_node(run, loading, record_bytes, tensors)
        if memory_gb is not None and memory.total > 1e9 * memory_gb:
            shards.refuse_memory(run, loading, record_bytes, tensors, memory_gb)
    batches = batches_per_epoch(num_samples, num_shards, run.world_size, data.num_workers, data.batch_size)
    sharing = (
        f"{num_shards / run.num_slots:.2f} shards a worker ({count(run.world_size, 'rank')} x"
        f" {count(run.readers, 'worker')}); an epoch is {batches:,} x {run.world_size * data.batch_size:,} images"
    )
    return Needs(sharing, memory)


def refuse_starving(data: PretrainingDataModule, ranks: Ranks, cores: int, rate: float | None) -> str:
    """Compare what workers and cores decode with what GPUs take, on a few of the images.

    Args:
        data: The recipe's.
        ranks: The recipe's.
        cores: Of a node.
        rate: Images a second that a GPU was measured to train on; without it a usual one is assumed, and what is
            lacking is said and not refused.

    Returns:
        What was found, in words.

    Raises:
        UserError: If they decode less than the measured rate.
    """
    if not ranks.on_gpus:
        wanted = ranks.per_node * (data.num_workers + 1)
        few = f", fewer than the {wanted} processes of a node" if cores < wanted else ""
        return f"{count(cores, 'core')}{few}; not judged on CPUs"
    crops = data.transform.multi_crop
    try:
        with _in_the_recipes_words():
            found = shards.preflight(
                data.folders, ranks.nodes, ranks.per_node, data.num_workers, data.batch_size, cores,
                images_per_second_per_gpu=rate or ASSUMED_RATE, in_chans=data.transform.in_chans,
                num_global_views=crops.num_global, global_size=crops.global_size, num_local_views=crops.num_local,
                local_size=crops.local_size, open_shards=data.open_shards, prefetch_factor=data.prefetch_factor,
                pin_memory=data.pin_memory, num_images=NUM_MEASURED,
            )  # fmt: skip
    except UserError as error:
        if rate is not None:
            raise
        return (
            f"may starve: {error} (assumed {ASSUMED_RATE:g} img/s: --images_per_second_per_gpu says what you measured)"
        )
    assumed = "" if rate is not None else ", an assumption"
    speed = found.speed
    return (
        f"a core gives {speed.per_core:,.0f} img/s, a GPU takes {speed.per_gpu:,.0f}{assumed}:"
        f" a node needs {found.cores_per_node} of its {count(cores, 'core')}"
    )


@contextmanager
def _in_the_recipes_words() -> Iterator[None]:
    """Let refusals of `arl shards preflight` name this command's keys."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(r"--\w+", lambda found: KEYS.get(found[0], found[0]), str(error))) from error
