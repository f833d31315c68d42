"""What a checkpoint holds beside Lightning's state, in plain values so that it loads with `weights_only=True`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import torch

import arl_lightning
from arl_lightning.errors import UserError


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


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU, without unpickling code.

    Raises:
        UserError: If the file is missing, is no checkpoint, or not one of ours.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give a file, or `last` for the run folder's newest")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a truncated or foreign file fails in many ways inside torch
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}); choose another one") from error
    if "arl" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of `arl pretrain`")
    return checkpoint
