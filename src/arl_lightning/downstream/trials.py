"""The single trainings that a recipe asks for: one for each seed, fold and share of the labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from arl_lightning.data.tasks.case import Case, Finding
from arl_lightning.data.tasks.consistency import part_findings
from arl_lightning.data.tasks.splits import Split, label_share, split_cases, split_folds, split_hash
from arl_lightning.data.wording import one_line
from arl_lightning.downstream.recipe import Recipe
from arl_lightning.errors import UserError


@dataclass(frozen=True)
class Trial:
    """One training and its test.

    Attributes:
        name: Of its folder below the run's; empty where it is the only one.
        split: Its cases.
        seed: Of weights, order and augmentation, and of the labels kept.
        fold: Which fold is tested, None without folds.
        fraction: Share of the training labels that is used.
        split_hash: Names the test part; of all folds together where there are several.
        notes: What its split lacks, without which it can be trained.
    """

    name: str
    split: Split
    seed: int
    fold: int | None
    fraction: float
    split_hash: str
    notes: tuple[Finding, ...] = ()


def trials(
    cases: Sequence[Case], recipe: Recipe, groups: Sequence[str] | None = None, classes: Sequence[str] = ()
) -> list[Trial]:
    """List the trainings, by share of the labels, then by seed, then by fold.

    Args:
        cases: All cases.
        recipe: Says how they are split.
        groups: What must stay in one part, one for each case; patients and clips where None.
        classes: What is learnt to tell apart; empty where masks are.

    Raises:
        UserError: If the cases cannot be split as asked for, or a class is left without a training case.
    """
    if recipe.folds is None:
        splits = [split_cases(cases, recipe.splitting, groups)]
        whole = split_hash(cases, splits[0])
    else:
        splits = split_folds(cases, recipe.folds, recipe.splitting, groups)
        whole = split_hash(cases, Split((), (), tuple(range(len(cases)))))
    planned = [
        Trial(
            _name(recipe, fraction, seed, fold),
            replace(split, train=label_share(cases, split.train, fraction, seed, groups)),
            seed,
            fold if recipe.folds else None,
            fraction,
            whole,
        )
        for fraction in recipe.fraction
        for seed in recipe.seeds
        for fold, split in enumerate(splits)
    ]
    return [_noted(trial, cases, classes) for trial in planned]


def _noted(trial: Trial, cases: Sequence[Case], classes: Sequence[str]) -> Trial:
    findings = part_findings(cases, trial.split, classes)
    for finding in findings:
        if finding.stops:
            where = f"{trial.name}: " if trial.name else ""
            raise UserError(f"{one_line(finding.path)}: {where}{finding.reason}")
    return replace(trial, notes=tuple(findings))


def _name(recipe: Recipe, fraction: float, seed: int, fold: int) -> str:
    parts = []
    if len(recipe.fraction) > 1:
        parts.append(f"share_{fraction:g}")
    if len(recipe.seeds) > 1:
        parts.append(f"seed_{seed}")
    if recipe.folds:
        parts.append(f"fold_{fold}")
    return "/".join(parts)
