"""What a checkpoint holds beside Lightning's state, in plain values so that it loads with `weights_only=True`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import arl_lightning
from arl_lightning.errors import UserError
from arl_lightning.models.weights import read_checkpoint

# Recipe keys, by group, that shape the networks or what they see.
NETWORK_KEYS = {
    "encoder": ("name", "image_size", "in_chans", "conditioning", "kernel", "register_tokens"),
    "decoder": ("depth", "dim", "num_heads"),
    "pixels": ("mean", "std"),
    "reconstruction": ("enabled",),
    "adversarial": ("enabled", "width"),
    "self_distillation": ("enabled", "num_prototypes", "hidden_dim", "bottleneck_dim"),
}


def describe(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the version and the module's arguments, nested groups as dictionaries."""
    return {"version": arl_lightning.__version__, "recipe": {name: _plain(value) for name, value in recipe.items()}}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def arguments(recipe: dict[str, Any], constructor: Callable[..., None]) -> dict[str, Any]:
    """Turn a described recipe back into the constructor's arguments, dictionaries into option groups."""
    types = get_type_hints(constructor)
    return {
        name: types[name](**value) if dataclasses.is_dataclass(types[name]) else value for name, value in recipe.items()
    }


def refuse_other_networks(saved: dict[str, Any], present: dict[str, Any]) -> None:
    """Compare what the weights depend on.

    Raises:
        UserError: If two recipes have other networks, pixels or anatomies, or the former one lacks their keys.
    """
    if (key := _lacking(saved)) is not None:
        raise UserError(f"model.{key}: the checkpoint, of another version, lacks it; resume with that version")
    for group, names in NETWORK_KEYS.items():
        before, now = saved[group], present[group]
        for name in names:
            if before[name] != now[name]:
                raise UserError(
                    f"model.{group}.{name}: the checkpoint has {before[name]}, this run {now[name]}; resume with the"
                    " former, or start a new run"
                )
    if list(saved["anatomies"]) != list(present["anatomies"]):
        raise UserError("model.anatomies: the checkpoint has others; resume with its recipe, or start a new run")


def _lacking(recipe: dict[str, Any]) -> str | None:
    """Name the first key that a described recipe has not, though this version compares it."""
    for group, names in NETWORK_KEYS.items():
        for name in names:
            if name not in recipe.get(group, {}):
                return f"{group}.{name}"
    return None if "anatomies" in recipe else "anatomies"


def load_to_resume(path: Path) -> dict[str, Any]:
    """Read all of a checkpoint but weights and optimizer state.

    Raises:
        UserError: If it cannot be read, or another version wrote it and left out what this one goes on from.
    """
    checkpoint = load(path, weights=None)
    described = checkpoint["arl"]
    key = _lacking(described.get("recipe", {}))
    lacking = [
        *([f"model.{key}"] if key is not None else []),
        *(name for name in ("nonfinite_steps",) if name not in described),
        *(name for name in ("global_step", "optimizer_states") if name not in checkpoint),
    ]
    if lacking:
        version = described.get("version", "unknown")
        raise UserError(
            f"{path}: written by version {version}, lacks {lacking[0]}; go on with that version, or start a new run in"
            " another --run.folder"
        )
    return checkpoint


def load(path: Path, weights: str | None = "") -> dict[str, Any]:
    """Read a checkpoint on the CPU, without unpickling code.

    Args:
        path: A file, or a folder that sharded ranks wrote.
        weights: How the names of the weights start that are read from a folder; None reads none of them.

    Raises:
        UserError: If the checkpoint is missing, not whole, none, or not one of ours.
    """
    checkpoint = read_checkpoint(path, weights)
    if "arl" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of `arl pretrain`")
    return checkpoint
