"""What loading takes: readers, cores and the memory of one node."""

import math
from dataclasses import dataclass

from arl_lightning.data.stream.epoch import CHUNK
from arl_lightning.errors import UserError

# The batch that is trained on, and the next one, which Lightning takes early, or which is made without workers.
IN_TRAINING = 2


@dataclass(frozen=True)
class Run:
    """The size of a run.

    Attributes:
        nodes: Machines.
        gpus_per_node: GPUs of each, one rank a GPU.
        workers: Worker processes of each rank; 0 reads in the training process.
        batch_size: Images in a batch of one rank.

    Raises:
        UserError: If a number is too small.
    """

    nodes: int
    gpus_per_node: int
    workers: int
    batch_size: int

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("gpus_per_node", 1), ("workers", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least {least}")

    @property
    def world_size(self) -> int:
        """Ranks."""
        return self.nodes * self.gpus_per_node

    @property
    def readers(self) -> int:
        """Processes of one rank that read and decode."""
        return max(self.workers, 1)

    @property
    def readers_per_node(self) -> int:
        """Processes of one node that read and decode."""
        return self.gpus_per_node * self.readers

    @property
    def num_slots(self) -> int:
        """Processes that read and decode."""
        return self.world_size * self.readers


@dataclass(frozen=True)
class Loading:
    """How each worker reads.

    Attributes:
        open_shards: Shards that it reads in turn.
        prefetch_factor: Batches that it prepares ahead.
        pin_memory: Whether batches are copied to page-locked memory.
        chunk: Encoded images that it holds of each open shard.
    """

    open_shards: int
    prefetch_factor: int
    pin_memory: bool
    chunk: int = CHUNK

    def taken(self, run: Run) -> int:
        """Return the batches that a training process holds at most; pinning takes all that are ready."""
        ahead = run.workers * self.prefetch_factor if self.pin_memory else 0
        return IN_TRAINING + ahead


@dataclass(frozen=True)
class Speed:
    """What a GPU takes and a core gives.

    Attributes:
        per_gpu: Images a second that one GPU trains on, an assumption.
        per_core: Images a second that one core turns from shards into views.
        measured: Whether `per_core` was measured here, on this corpus.
    """

    per_gpu: float
    per_core: float
    measured: bool

    @property
    def cores_per_gpu(self) -> float:
        """Cores that decode for one GPU."""
        return self.per_gpu / self.per_core

    def cores_per_node(self, run: Run) -> int:
        """Cores that one node needs: for decoding, and one for each training process."""
        return math.ceil(run.gpus_per_node * (self.cores_per_gpu + 1))


@dataclass(frozen=True)
class Memory:
    """Bytes of one node.

    Attributes:
        encoded: Chunks of the open shards.
        shared: The workers' buffers in shared memory.
        taken: Batches in the training processes.
    """

    encoded: float
    shared: float
    taken: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.encoded + self.shared + self.taken


def memory_of_node(run: Run, loading: Loading, record_bytes: float, tensors: tuple[int, int]) -> Memory:
    """Return what batches and what they are made of take at most.

    Args:
        run: Its size.
        loading: How it reads.
        record_bytes: Size of a sample in its shard.
        tensors: Bytes of an image's global and of its local views.
    """
    sizes = [run.batch_size * size for size in tensors]
    batch = sum(sizes)
    held = sum(_power_of_two(size) for size in sizes) if loading.pin_memory else batch
    return Memory(
        encoded=run.readers_per_node * loading.open_shards * loading.chunk * record_bytes,
        shared=run.gpus_per_node * run.workers * (loading.prefetch_factor + 1) * batch,
        taken=run.gpus_per_node * loading.taken(run) * held,
    )


def _power_of_two(num_bytes: int) -> int:
    """Round up as torch's allocator of pinned memory does."""
    return 1 << (num_bytes - 1).bit_length() if num_bytes else 0
