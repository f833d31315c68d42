"""Living tensor memory of a computation, counted storage by storage as PyTorch's operations make and free them."""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed.fsdp  # defines its operations
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ACTIVATIONS, HALF_WEIGHTS, GATHERED = "activations", "half weights", "gathered"
KEPT_KINDS = frozenset({"weights", "teacher", GATHERED})  # whose lower-precision copies are `HALF_WEIGHTS`

_read_number = torch.ops.aten._local_scalar_dense.default
_convert = torch.ops.aten._to_copy.default
_unpack_gathered = torch.ops.fsdp.split_with_sizes_copy.default  # FSDP2's, of one exchange to single weights


class Recorder(TorchDispatchMode):
    """Counts the bytes of all storages that operations made inside of it and that still live.

    Tensors without values (`FakeTensorMode`) cost nothing, so that any network can be counted. What a program reads
    from such tensors is answered here.

    Attributes:
        living: Bytes now, by kind; `ACTIVATIONS` is whatever was not marked as something else.
        peak: Those of the moment when their sum was the largest.
        whole_number: Answer where an integer is read.
        truth: Answer where a bool is read.
    """

    def __init__(self, whole_number: int = 0, truth: bool = False) -> None:
        super().__init__()
        self.living: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.whole_number = whole_number
        self.truth = truth
        self._total = self._peak_total = 0
        self._storages: dict[int, tuple[str, int]] = {}  # kind and bytes
        self._resize = torch.UntypedStorage.resize_

    def __enter__(self) -> "Recorder":
        resize = self._resize

        def resize_(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
            resized = resize(storage, size)
            self._note(storage)
            return resized

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign,assignment] # no dispatch
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        if DTensor in types:
            return NotImplemented  # it comes again with the rank's own part
        if function is _read_number:
            return self._answer(args[0])
        result = function(*args, **(kwargs or {}))
        kind = ACTIVATIONS
        if function is _convert and self._kind(args[0]) in KEPT_KINDS:
            kind = HALF_WEIGHTS
        if function is _unpack_gathered:
            self.mark(kwargs["out"], GATHERED)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage(), kind)
        return result

    def mark(self, tensors: Iterable[Tensor | None], kind: str) -> None:
        """Count tensors, from now on, as of a kind; a DTensor's is the rank's own part."""
        for tensor in tensors:
            if tensor is None:
                continue
            storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
            self._note(storage)
            former, size = self._storages[storage._cdata]
            self.living[former] -= size
            self.living[kind] += size
            self._storages[storage._cdata] = kind, size
        if self._total == self._peak_total:
            self.peak = self.living.copy()  # the peak is now

    def forget_peak(self) -> None:
        """Begin to look for the peak from here on."""
        self._peak_total, self.peak = self._total, self.living.copy()

    def _answer(self, tensor: Tensor) -> int | float | bool:
        if tensor.dtype == torch.bool:
            return self.truth
        return 1.0 if tensor.is_floating_point() else self.whole_number

    def _kind(self, tensor: Tensor) -> str | None:
        return self._storages.get(tensor.untyped_storage()._cdata, (None, 0))[0]

    def _note(self, storage: torch.UntypedStorage, kind: str = ACTIVATIONS) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            kind, before = self._storages[key]
        else:
            before = 0
            weakref.finalize(storage, self._free, key).atexit = False
        if size == before and key in self._storages:
            return
        self._storages[key] = kind, size
        self.living[kind] += size - before
        self._total += size - before
        if self._total > self._peak_total:
            self._peak_total, self.peak = self._total, self.living.copy()

    def _free(self, key: int) -> None:
        kind, size = self._storages.pop(key)
        self.living[kind] -= size
        self._total -= size
