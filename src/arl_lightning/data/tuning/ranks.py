"""What each rank of a run is and will read, said by the rank itself in place of training: `arl ranks`.

Started as `arl pretrain` would be, with its words. Neither torch nor the networks are imported: a process takes tens of
megabytes and a second, so that a layout of many nodes can be looked at on a few cores.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import yaml

from arl_lightning.data.stream.corpus import Corpus
from arl_lightning.data.stream.epoch import EpochPlan, Layout, Piece, merged
from arl_lightning.data.stream.storage import Shard
from arl_lightning.distributed.slurm import Place, place
from arl_lightning.errors import UserError

FIRST_EPOCH = 0
USAGE = """\
usage: arl ranks --config recipes/pretrain/NAME.yaml [--KEY VALUE ...]

Say what each rank of a job is and reads in the first epoch, as one line of JSON, in place of training. Takes the keys
of `arl pretrain`, of which those of the data matter. srun starts it on all tasks of a job:
ARL_RANK_REPORT=1 slurm/pretrain_64gpu.sh"""


@dataclass(frozen=True)
class Reading:
    """The keys of a recipe that say who reads what, with the defaults of `PretrainingDataModule`."""

    shards: str | list[str]
    batch_size: int = 64
    num_workers: int = 4
    open_shards: int = 4
    seed: int = 0


def ranks(arguments: Sequence[str]) -> str:
    """Return one line of JSON: this rank, its node, where all ranks meet, and what it reads in the first epoch.

    `reads` are runs of positions, `[start, stop]` of each shard, for all workers of the rank together.

    Args:
        arguments: Those of `arl pretrain`; keys that do not matter here are not looked at.

    Raises:
        UserError: If the recipe or the shards cannot be used, or there are too few of them.
    """
    if {"-h", "--help"} & set(arguments):
        return USAGE
    reading = reading_of(recipe_of(arguments))
    here = place()
    folders = [reading.shards] if isinstance(reading.shards, str) else reading.shards
    layout = Layout(reading.batch_size, here.world_size, reading.num_workers, reading.open_shards)
    return json.dumps(report(EpochPlan(Corpus.load(folders).shards, reading.seed, layout), here))


def report(plan: EpochPlan, here: Place) -> dict[str, Any]:
    """Return what a rank is and reads, in plain values."""
    workers = range(plan.layout.slots_per_rank)
    slots = [plan.slot(FIRST_EPOCH, here.rank, worker) for worker in workers]
    pieces = merged(piece for slot in slots for piece in slot)
    return {
        **{name: value for name, value in asdict(here).items() if not name.startswith("main_")},
        "rendezvous": f"{here.main_address}:{here.main_port}",
        "workers": len(workers),
        "batches": plan.num_batches(FIRST_EPOCH),
        "samples": sum(piece.size for piece in pieces),
        "reads": _by_shard(pieces, plan.shards),
    }


def _by_shard(pieces: Sequence[Piece], shards: Sequence[Shard]) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    for piece in pieces:
        found.setdefault(shards[piece.shard].url, []).append([piece.start, piece.stop])
    return found


def reading_of(recipe: Mapping[str, Any]) -> Reading:
    """Return the keys that say who reads what.

    Raises:
        UserError: If the shards are not named, or a number is none.
    """
    data = recipe.get("data") or {}
    given = {field.name: data[field.name] for field in fields(Reading) if data.get(field.name) is not None}
    if "shards" not in given:
        raise UserError("data.shards: missing; name the folder of packed shards")
    given["seed"] = recipe.get("seed_everything", 0)
    for name in given.keys() - {"shards"}:
        least = 0 if name in ("num_workers", "seed") else 1
        if type(given[name]) is not int or given[name] < least:
            key = "seed_everything" if name == "seed" else f"data.{name}"
            raise UserError(f"{key} {given[name]}: must be a whole number of at least {least}")
    return Reading(**given)


def recipe_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the recipes and keys on a command line put together; later ones count.

    Raises:
        UserError: If a recipe cannot be read, or a word is neither a key nor its value.
    """
    recipe: dict[str, Any] = {}
    for key, text in _pairs(arguments):
        if key == "config":
            _join(recipe, _read(Path(text)))
            continue
        value = _parsed(text)
        for name in reversed(key.split(".")):
            value = {name: value}
        _join(recipe, cast(dict[str, Any], value))
    return recipe


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = iter(arguments)
    for word in words:
        key, is_joined, value = word.partition("=")
        if not key.startswith("--") or key == "--":
            raise UserError(f"{word}: not a key; write --KEY VALUE")
        if not is_joined and (value := next(words, "")) == "":
            raise UserError(f"{key}: needs a value")
        yield key.removeprefix("--"), value


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _read(path: Path) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{path}: cannot be read ({reason}); name a recipe, see recipes/pretrain") from error
    if not isinstance(recipe, dict):
        raise UserError(f"{path}: not a recipe; see recipes/pretrain")
    return recipe


def _join(recipe: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(recipe.get(name), dict):
            _join(recipe[name], value)
        else:
            recipe[name] = value
