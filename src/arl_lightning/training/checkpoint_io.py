"""Checkpoint files that a kill never leaves half written, and reading of checkpoints whatever wrote them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from arl_lightning.distributed.saving import replace, temporary_of
from arl_lightning.distributed.sharded_checkpoint import is_folder, read_file, read_folder


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it: a kill at any time leaves the former one whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save to a local path; where that fails, what was written so far is removed."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_of(place)
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            replace(temporary, place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a file, or a folder that sharded ranks wrote, as the dictionary that Lightning expects.

        A file is mapped into memory, which the ranks of a node share. No code is unpickled, whatever is asked for.

        Raises:
            UserError: If it is missing, not whole or not readable.
        """
        return read_folder(Path(path)) if is_folder(Path(path)) else read_file(Path(path))
