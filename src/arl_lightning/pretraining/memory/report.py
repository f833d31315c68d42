"""What `arl bench memory` says: one table for activations kept, one for activations recomputed."""

from dataclasses import dataclass

GIB = 2**30
LABELS = {
    "weights": "weights, float32",
    "gradients": "gradients",
    "AdamW": "AdamW's moments",
    "teacher": "teacher",
    "half weights": "weights in bfloat16",
    "gathered": "gathered weights",
    "scattered": "gradients to scatter",
    "activations": "activations, buffers",
}
STRATEGIES = {"auto": "one GPU", "ddp": "DDP", "hsdp": "HSDP", "fsdp2": "FSDP2"}


@dataclass(frozen=True)
class Column:
    """One strategy.

    Attributes:
        strategy: auto, ddp, hsdp or fsdp2.
        parts: Bytes at the peak of a step, by kind.
        largest_batch: Images a GPU that fit; 0 if not even one does.
    """

    strategy: str
    parts: dict[str, int]
    largest_batch: int

    @property
    def peak(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class MemoryReport:
    """What `memory` computed.

    Attributes:
        setting: What was looked at, in words.
        batch_size: Images a GPU.
        gpu_memory: GiB that a GPU has.
        reserve: GiB of them that tensors cannot have.
        tables: Columns, by whether activations are recomputed.
    """

    setting: str
    batch_size: int
    gpu_memory: float
    reserve: float
    tables: dict[bool, list[Column]]

    def __str__(self) -> str:
        lines = [self.setting, "GiB a GPU at the peak of a training step"]
        for recomputed, columns in self.tables.items():
            lines += ["", f"model.encoder.checkpoint_gradients: {str(recomputed).lower()}", *self._table(columns)]
        lines += [
            "",
            f"Fits: at most {self.gpu_memory - self.reserve:g} of {self.gpu_memory:g} GiB. The reserve of"
            f" {self.reserve:g} GiB is for what is neither computed nor measured:",
            "CUDA's context, NCCL's buffers, workspaces of kernels, memory that lies in pieces.",
        ]
        return "\n".join(lines)

    def _table(self, columns: list[Column]) -> list[str]:
        rows = [(label, [f"{each.parts[kind] / GIB:.2f}" for each in columns]) for kind, label in LABELS.items()]
        head = ("", [STRATEGIES[each.strategy] for each in columns])
        total = ("peak", [f"{each.peak / GIB:.2f}" for each in columns])
        verdict = ("batch of " + str(self.batch_size), [self._verdict(each) for each in columns])
        return [
            f"{name:22}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in [head, *rows, total, verdict]
        ]

    def _verdict(self, column: Column) -> str:
        if column.largest_batch >= self.batch_size:
            return "fits"
        return f"{column.largest_batch} at most" if column.largest_batch else "never fits"


def _line(name: str, cells: list[str]) -> str:
    return f"{name:22}" + "".join(f"{cell:>12}" for cell in cells)
