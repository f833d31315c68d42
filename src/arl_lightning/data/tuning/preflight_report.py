"""What `arl shards preflight` prints."""

from collections.abc import Iterator
from dataclasses import dataclass

from arl_lightning.data.tuning.needs import Loading, Memory, Run, Speed


@dataclass(frozen=True)
class PreflightReport:
    """What a run needs; as a string, the table that the command line prints.

    Attributes:
        run: Its size.
        loading: How it reads.
        num_shards: Shards of the corpus.
        num_samples: Samples of the corpus.
        record_bytes: Mean size of a sample in its shard.
        num_batches: Batches of each rank in an epoch.
        speed: Rates.
        memory: Of one node.
        checked: Whether every file was looked at.
    """

    run: Run
    loading: Loading
    num_shards: int
    num_samples: int
    record_bytes: float
    num_batches: int
    speed: Speed
    memory: Memory
    checked: bool

    @property
    def shards_per_worker(self) -> float:
        """Shards by ranks x workers."""
        return self.num_shards / self.run.num_slots

    @property
    def num_used(self) -> int:
        """Samples that an epoch sees."""
        return self.num_batches * self.run.world_size * self.run.batch_size

    @property
    def num_dropped(self) -> int:
        """Samples that an epoch leaves out, other ones each time."""
        return self.num_samples - self.num_used

    @property
    def epoch_minutes(self) -> float:
        """Time of an epoch at the assumed rate."""
        return self.num_used / (self.run.world_size * self.speed.per_gpu) / 60

    @property
    def mb_per_second(self) -> float:
        """What one node reads, in 1,000,000 bytes a second."""
        return self.run.gpus_per_node * self.speed.per_gpu * self.record_bytes / 1e6

    @property
    def cores_per_node(self) -> int:
        """Cores that one node needs."""
        return self.speed.cores_per_node(self.run)

    def __str__(self) -> str:
        rows = (*self._corpus_rows(), *self._speed_rows(), *self._memory_rows())
        return "\n".join(f"{name:20}{value}" for name, value in rows)

    def _corpus_rows(self) -> Iterator[tuple[str, str]]:
        run, few = self.run, self.shards_per_worker < self.loading.open_shards
        less = f", fewer than open_shards {self.loading.open_shards}: batches mix fewer shards" if few else ""
        yield "ranks", f"{run.nodes} nodes x {run.gpus_per_node} GPUs = {run.world_size}, {run.workers} workers each"
        size = f"{self.record_bytes / 1e3:.1f} kB each"
        yield "corpus", f"{self.num_samples:,} samples in {self.num_shards:,} shards, {size}"
        yield "files", "all there with their sizes" if self.checked else "not looked at (--check_files)"
        yield "shards per worker", f"{self.shards_per_worker:.2f}{less}"
        dropped = f"{self.num_dropped:,} dropped ({self.num_dropped / self.num_samples:.2%}), others each epoch"
        yield "samples per epoch", f"{self.num_used:,}; {dropped}"
        yield "batches per epoch", f"{self.num_batches:,} of each rank, {run.batch_size} images each"

    def _speed_rows(self) -> Iterator[tuple[str, str]]:
        speed = self.speed
        steps = f"{speed.per_gpu / self.run.batch_size:.2f} steps/s, an epoch in {self.epoch_minutes:,.1f} min"
        yield "a GPU takes", f"{speed.per_gpu:,.0f} img/s, an assumption (--images_per_second_per_gpu): {steps}"
        origin = "measured here on this corpus, crops included" if speed.measured else "as given"
        yield "a core gives", f"{speed.per_core:,.0f} img/s, {origin}"
        node = f"{self.cores_per_node} cores for {self.run.gpus_per_node} GPUs a node"
        yield "cores per GPU", f"{speed.cores_per_gpu:.2f} to decode, 1 to train: {node}"
        yield "read", f"{self.mb_per_second:,.1f} MB/s a node, {self.run.nodes * self.mb_per_second:,.1f} MB/s in all"

    def _memory_rows(self) -> Iterator[tuple[str, str]]:
        run, loading, memory = self.run, self.loading, self.memory
        readers, workers = f"{run.readers_per_node} readers", f"{run.gpus_per_node * run.workers} workers"
        yield "memory per node", f"{_gb(memory.total)}, without the processes themselves and the model:"
        chunks = f"{loading.open_shards} open shards x {loading.chunk} images"
        yield "  encoded images", f"{_gb(memory.encoded)} = {readers} x {chunks} x {self.record_bytes / 1e3:.1f} kB"
        ahead = f"{workers} x (prefetch_factor {loading.prefetch_factor} + 1) batches"
        yield "  shared memory", f"{_gb(memory.shared)} in /dev/shm = {ahead}"
        pinned = ", pinned, in powers of two bytes" if loading.pin_memory else ""
        yield (
            "  taken batches",
            f"{_gb(memory.taken)} = {run.gpus_per_node} ranks x {loading.taken(run)} batches{pinned}",
        )


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
