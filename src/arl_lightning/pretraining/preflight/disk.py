"""What a run's checkpoints and cached shards take on disk, before there is one."""

import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from arl_lightning.data.stream.cache import Cache
from arl_lightning.data.stream.storage import Shard
from arl_lightning.data.wording import human_size
from arl_lightning.errors import UserError
from arl_lightning.pretraining.arl import ARL

NUM_MOMENTS = 2  # of AdamW, one value each for every trained weight


def checkpoint_bytes(module: ARL, precision: str) -> int:
    """Return the size of a checkpoint: weights of student, teacher and discriminator, and AdamW's two moments.

    The module gets its networks, without memory behind them: it cannot train any more.

    Args:
        module: As the recipe builds it.
        precision: The trainer's; 64-true has numbers of 8 bytes.
    """
    with torch.device("meta"):
        module.configure_model()
    width = 8 if precision.startswith("64") else 4

    def num_bytes(tensor: torch.Tensor) -> int:
        return tensor.numel() * (width if tensor.is_floating_point() else tensor.element_size())

    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    weights = sum(num_bytes(tensor) for tensor in module.state_dict().values())
    return weights + NUM_MOMENTS * sum(num_bytes(parameter) for parameter in trained)


def checkpoints_at_once(keep: int, every_n_steps: int, max_steps: int) -> int:
    """Return how many checkpoints lie on disk at most: those that are kept, 0 for all, and one in the making."""
    return (keep or math.ceil(max_steps / every_n_steps)) + 1


def free_bytes(folder: Path, key: str) -> int:
    """Return what is free where a folder lies, or will; nothing is made.

    Raises:
        UserError: If it cannot be written there; names the recipe's key.
    """
    absolute = folder.absolute()
    place = next(each for each in (absolute, *absolute.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            return shutil.disk_usage(place).free
    except OSError as error:
        raise UserError(
            f"{key} {folder}: {place} cannot be written ({error.strerror}); choose another --{key}"
        ) from error


def refuse_full_cache(folder: Path, shards: Sequence[Shard]) -> str:
    """Compare what is free for copies of shards with what is still to be copied, in words.

    Raises:
        UserError: If they do not fit.
    """
    free, cache = free_bytes(folder, "data.cache_folder"), Cache(folder)
    needed = sum(shard.num_bytes for shard in shards if not cache.holds(shard))
    if needed > free:
        raise UserError(
            f"data.cache_folder {folder}: {human_size(free)} are free and {human_size(needed)} of shards are still to"
            " be copied; make room, choose another folder, or leave the option out"
        )
    return f"{folder}: {human_size(needed)} still to be copied, {human_size(free)} are free"


def present_bytes(folder: Path) -> int:
    """Return what a run's checkpoints take already, files and folders; `last.ckpt` leads to one of them."""
    whole = [path for path in folder.glob("step-*.ckpt") if not path.is_symlink()]
    files = [file for path in whole for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())
