"""From a recipe to a run folder: every trial trained, tested once, and written down with its statistics."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from arl_lightning.distributed.collectives import is_first_rank
from arl_lightning.downstream import frozen, protocols
from arl_lightning.downstream.encoders import PIXELS
from arl_lightning.downstream.material import Material, open_material
from arl_lightning.downstream.recipe import ProtocolName, Recipe
from arl_lightning.downstream.reports import end_report, start_report
from arl_lightning.downstream.run_folder import clear_run, is_done, refuse_other_run, write_recipe
from arl_lightning.downstream.run_info import run_info
from arl_lightning.downstream.segmenting import segment
from arl_lightning.downstream.trials import Trial, trials
from arl_lightning.errors import UserError
from arl_lightning.evaluation.results import evaluate, write_run
from arl_lightning.evaluation.summary_report import write_summary

NUM_RESAMPLES = 2000
FROZEN: tuple[ProtocolName, ...] = ("probe", "knn")


@dataclass(frozen=True)
class Protocol:
    """A way to train on a task.

    Attributes:
        run: Trains and tests one trial, and writes its folder's `results.json`.
        with_masks: Whether it learns from masks, not labels.
    """

    run: Callable[[Material, Trial, Path], None]
    with_masks: bool = False


def classify(fit: Callable[[Material, Trial, Path], protocols.Outcome], name: ProtocolName) -> Protocol:
    """Return a protocol that classifies: fit, then statistics of the test part."""

    def run(material: Material, trial: Trial, folder: Path) -> None:
        outcome = fit(material, trial, folder)
        if not is_first_rank():
            return
        validation = material.predictions(outcome.validation, "val", trial.seed, trial.fold)
        test = material.predictions(outcome.test, "test", trial.seed, trial.fold)
        results = evaluate(test, validation, num_resamples=NUM_RESAMPLES)
        info = run_info(material, trial, name, outcome.seconds, outcome.extra)
        write_run(folder, info, results, [validation, test])

    return Protocol(run)


def run_recipe(name: ProtocolName, protocol: Protocol, recipe: Recipe, say: Callable[[str], None] = print) -> None:
    """Train and test all that a recipe asks for; trials that an earlier call finished are kept.

    Args:
        name: Of the protocol.
        protocol: What is done with each trial.
        recipe: The recipe.
        say: Shows the user lines.

    Raises:
        UserError: If the recipe, the files or the checkpoint cannot be used.
    """
    refuse_senseless(name, recipe)
    folder = recipe.out or Path("runs") / name / recipe.task
    if not recipe.overwrite:
        refuse_other_run(folder, name, recipe)
    material = open_material(recipe, protocol.with_masks)
    classes = () if protocol.with_masks else material.listing.classes
    planned = trials(material.listing.cases, recipe, material.images.groups, classes)
    if is_first_rank():
        say(start_report(material, planned, name))
        if recipe.overwrite:
            clear_run(folder)
        write_recipe(folder, name, recipe)
    for trial in planned:
        if recipe.overwrite or not is_done(folder / trial.name, material, trial):
            protocol.run(material, trial, folder / trial.name)
    if is_first_rank():
        if len(planned) > 1:
            say(f"{write_summary(folder, NUM_RESAMPLES)}\nall numbers     {folder / 'summary.json'}")
        else:
            say(end_report(folder, material.task.metrics))


def refuse_senseless(name: ProtocolName, recipe: Recipe) -> None:
    """See that no key is given that the protocol would not heed.

    Raises:
        UserError: If one is.
    """
    optimization = recipe.optimization
    if recipe.checkpoint == PIXELS and name not in FROZEN:
        raise UserError(f"checkpoint pixels: has no weights to train; use one of {', '.join(FROZEN)}")
    if optimization.optimizer == "lbfgs" and (name != "probe" or recipe.augment.enabled):
        raise UserError("optimization.optimizer lbfgs: is for probe with --augment.enabled false alone")
    if optimization.class_weights != "none" and name in ("knn", "segment"):
        raise UserError(f"optimization.class_weights: {name} has none; use --loading.balance, or leave it out")


PROTOCOLS: dict[ProtocolName, Protocol] = {
    "finetune": classify(protocols.finetune, "finetune"),
    "probe": classify(frozen.probe, "probe"),
    "knn": classify(frozen.knn, "knn"),
    "segment": Protocol(partial(segment, num_resamples=NUM_RESAMPLES), with_masks=True),
}
