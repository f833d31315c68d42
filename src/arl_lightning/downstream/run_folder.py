"""A run's folder: what may be kept of an earlier call, what has to go, and the recipe beside the results."""

import json
import shutil
from pathlib import Path

import yaml

from arl_lightning.downstream.material import Material
from arl_lightning.downstream.recipe import ProtocolName, Recipe
from arl_lightning.downstream.trials import Trial
from arl_lightning.errors import UserError
from arl_lightning.evaluation.schema import FILE, read_results

RECIPE = "recipe.yaml"
SUMMARY = "summary.json"
FILES = (RECIPE, SUMMARY, FILE, "predictions.parquet", "few_labels.png")
FOLDERS = ("checkpoints", "figures", "tensorboard")
TRIALS = ("share_*", "seed_*", "fold_*")
REPLACE = "choose another --out, or replace it with --overwrite"


def refuse_other_run(folder: Path, name: ProtocolName, recipe: Recipe) -> None:
    """See that a folder is free, or holds the unfinished run of this very recipe.

    Raises:
        UserError: If it holds a finished run, or one of another recipe.
    """
    if not (folder / RECIPE).exists():
        return
    if (folder / FILE).exists() or (folder / SUMMARY).exists():
        raise UserError(f"{folder}: holds a finished run; {REPLACE}")
    before = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
    if before != {"protocol": name, **recipe.plain()}:
        raise UserError(f"{folder / RECIPE}: of another run; {REPLACE}")


def is_done(folder: Path, material: Material, trial: Trial) -> bool:
    """Return whether an earlier call finished a trial with these very weights, cases and keys.

    Raises:
        UserError: If it finished the trial with others.
    """
    if not (folder / FILE).exists():
        return False
    before = read_results(folder)
    now = {
        "recipe": json.loads(json.dumps(material.recipe.plain())),
        "split_hash": trial.split_hash,
        "checkpoint": {"spec": material.origin.checkpoint, "sha256": material.origin.sha256},
    }
    for name, value in now.items():
        if dict(before)[name] != value:
            raise UserError(f"{folder / FILE}: was made with another {name}; {REPLACE}")
    return True


def clear_run(folder: Path) -> None:
    """Remove what an earlier run left, and nothing else: its numbers must not be taken for those of a new one."""
    for place in (folder, *(found for pattern in TRIALS for found in folder.glob(pattern))):
        if place != folder:
            clear_run(place)
        for file in FILES:
            (place / file).unlink(missing_ok=True)
        for left in FOLDERS:
            shutil.rmtree(place / left, ignore_errors=True)
        if place != folder and not any(place.iterdir()):
            place.rmdir()


def write_recipe(folder: Path, name: ProtocolName, recipe: Recipe) -> None:
    """Write all keys of a run beside what it leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{RECIPE}.tmp"
    temporary.write_text(yaml.safe_dump({"protocol": name, **recipe.plain()}, sort_keys=False), encoding="utf-8")
    temporary.replace(folder / RECIPE)
