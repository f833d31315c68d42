"""Which finished trainings make one row of a report: found below folders, put together where only seed and fold differ.

Trainings of one row have the same task, protocol, weights, test part, share of labels and keys.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from types import NoneType
from typing import Any, get_args

import yaml

from arl_lightning.errors import UserError
from arl_lightning.evaluation.files import numbered
from arl_lightning.evaluation.runs import Member, by_seed, load
from arl_lightning.evaluation.schema import FILE, Kind, read_results

RECIPE = "recipe.yaml"
TRIALS = ("share_", "seed_", "fold_")  # how the folders of single trainings begin
PHANTOM = "phantom"
ABSENT = "-"  # in place of the value of a key that a recipe lacks

# What a report takes from `results.json`: trainings are sorted and grouped by it.
TYPES: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "kind": str,
    "protocol": str,
    "split_hash": str,
    "fraction": (int, float),
    "seed": (int, NoneType),
    "fold": (int, NoneType),
    "checkpoint": dict,
    "recipe": dict,
    "n": dict,
    "metrics": dict,
}

# Keys that say where a run lay and how fast it was, and those that rows have a column for.
UNTOLD = (
    *("task", "checkpoint", "seeds", "fraction", "folds", "loading.num_workers", "loading.keep_gb"),
    *("devices.accelerator", "devices.strategy"),
)


@dataclass(frozen=True)
class Setting:
    """What trainings of one row agree in.

    Attributes:
        task, kind, protocol: As in `results.json`.
        weights: SHA-256 of the checkpoint, or its name where it is no file.
        split_hash: Names the test part.
        fraction: Share of the labels.
        num_folds: None without folds.
        keys: All other keys of the recipe, nested ones as `group.key`, with their values as text.
    """

    task: str
    kind: Kind
    protocol: str
    weights: str
    split_hash: str
    fraction: float
    num_folds: int | None
    keys: tuple[tuple[str, str], ...]


def gather(folders: Sequence[Path]) -> tuple[list[Member], list[str]]:
    """Return the trainings below some folders, each once, and a line for each that cannot be used or is unfinished.

    Raises:
        UserError: If a folder is missing, or no training below it can be used.
    """
    members: dict[Path, Member] = {}
    faults: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name one that finished runs lie in")
        places = sorted(path.parent for path in folder.rglob(FILE))
        if not places:
            raise UserError(f"{folder}: no {FILE} in it or below it; name a folder that finished runs lie in")
        for place in places:
            try:
                members.setdefault(place.resolve(), _read(place))
            except UserError as error:
                faults.append(str(error))
        faults += _unfinished(folder)
    faults = list(dict.fromkeys(faults))
    if not members:
        raise UserError(f"{' '.join(map(str, folders))}: nothing can be used: {'; '.join(faults)}")
    return list(members.values()), faults


def grouped(members: Iterable[Member]) -> tuple[dict[Setting, list[list[Member]]], list[str]]:
    """Put trainings together that differ in seed and fold alone.

    Returns:
        For each setting one group, or one for each run that holds the same seeds once more; and a line for each
        training that is left out.
    """
    groups: dict[Setting, list[Member]] = {}
    for member in members:
        groups.setdefault(setting(member), []).append(member)
    whole: dict[Setting, list[list[Member]]] = {}
    faults: list[str] = []
    for own, together in sorted(groups.items(), key=lambda item: _order(item[0])):
        runs = [together] if not _repeats(together) else list(_by_run(together).values())
        kept = [list(_without_repeats(run, faults)) for run in runs]
        kept = [list(_with_all_folds(run, own.num_folds, faults)) for run in kept]
        if any(kept):
            whole[own] = [run for run in kept if run]
    return whole, faults


def setting(member: Member) -> Setting:
    """Return what a training has in common with others of its row."""
    results = member.results
    keys = dict(_flat(results["recipe"]))
    if keys.pop("root", None) == PHANTOM:
        keys["root"] = PHANTOM
    checkpoint = results["checkpoint"]
    return Setting(
        results["task"],
        results["kind"],
        results["protocol"],
        checkpoint.get("sha256") or str(checkpoint["spec"]),
        results["split_hash"],
        results["fraction"],
        None if results["fold"] is None else results["recipe"].get("folds"),
        tuple(sorted((key, value) for key, value in keys.items() if key not in UNTOLD)),
    )


def unlike_most(settings: Sequence[Setting]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Compare the keys of settings.

    Returns:
        What most settings have of the keys that not all agree in, and for each setting what it has in place of that.
    """
    keys = [dict(each.keys) for each in settings]
    columns = {
        name: [each.get(name, ABSENT) for each in keys] for name in sorted({name for each in keys for name in each})
    }
    usual = {name: Counter(column).most_common(1)[0][0] for name, column in columns.items() if len(set(column)) > 1}
    return usual, [
        {name: own for name, most in usual.items() if (own := each.get(name, ABSENT)) != most} for each in keys
    ]


def run_folder(member: Member) -> Path:
    """Return the folder of the run that a training belongs to."""
    folder = member.folder
    while folder.name.startswith(TRIALS) and folder.parent != folder:
        folder = folder.parent
    return folder


def _read(place: Path) -> Member:
    member = Member(place, read_results(place))
    _refuse_odd(member.results, place / FILE)
    load(member)
    return member


def _refuse_odd(results: Mapping[str, Any], path: Path) -> None:
    """Let one damaged file be a line in the report, not its end."""
    checkpoint, recipe = results["checkpoint"], results["recipe"]
    odd = [name for name, kinds in TYPES.items() if not isinstance(results[name], kinds)]
    if not odd:
        folds, sha256 = recipe.get("folds"), checkpoint.get("sha256")
        told = {
            "kind": results["kind"] in get_args(Kind),
            "checkpoint": "spec" in checkpoint and isinstance(sha256, str | None),
            "recipe": isinstance(folds, int | None),
            "n": all(isinstance(each, int) for each in results["n"].values()),
        }
        odd = [name for name, right in told.items() if not right]
    if odd:
        said = shorten(json.dumps(results[odd[0]]), 40)
        raise UserError(f"{path}: {odd[0]} {said} is not what a run leaves; run it again")


def _unfinished(folder: Path) -> Iterator[str]:
    """Say which runs have fewer trainings than their recipe asks for."""
    for path in sorted(folder.rglob(RECIPE)):
        try:
            recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
            wanted = len(recipe["seeds"]) * len(recipe["fraction"]) * (recipe["folds"] or 1)
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            continue  # of another command, such as `arl pretrain`: it has nothing that a report shows
        done = len(list(path.parent.rglob(FILE)))
        if done < wanted:
            yield f"{path.parent}: {done} of {numbered(wanted, 'training')} finished; the same command goes on"


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _order(own: Setting) -> tuple[Any, ...]:
    folds = own.num_folds or 0
    return own.task, own.kind, own.protocol, own.split_hash, own.weights, folds, own.fraction, own.keys


def _place(member: Member) -> tuple[int | None, int | None]:
    return member.results["seed"], member.results["fold"]


def _repeats(members: Sequence[Member]) -> bool:
    return len({_place(each) for each in members}) < len(members)


def _by_run(members: Iterable[Member]) -> dict[Path, list[Member]]:
    runs: dict[Path, list[Member]] = {}
    for member in members:
        runs.setdefault(run_folder(member), []).append(member)
    return runs


def _without_repeats(members: Iterable[Member], faults: list[str]) -> Iterator[Member]:
    first: dict[tuple[int | None, int | None], Path] = {}
    for member in members:
        path = first.setdefault(_place(member), member.folder)
        if path == member.folder:
            yield member
        else:
            faults.append(f"{member.folder / FILE}: left out, {path} is the same run's same seed; remove the older one")


def _with_all_folds(members: Sequence[Member], wanted: int | None, faults: list[str]) -> Iterator[Member]:
    for seed, own in by_seed(members).items():
        folds = sorted(fold for each in own if (fold := each.results["fold"]) is not None)
        if wanted is None or folds == list(range(wanted)):
            yield from own
        else:
            said = ", ".join(map(str, folds))
            faults.append(f"{run_folder(own[0])}: seed {seed} left out, folds {said} of {wanted} are there; finish it")
