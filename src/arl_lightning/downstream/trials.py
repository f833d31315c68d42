"""The single trainings that a recipe asks for: one for each seed, fold and share of the labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from arl_lightning.data.tasks.case import Case
from arl_lightning.data.tasks.splits import Split, label_share, split_cases, split_folds, split_hash
from arl_lightning.downstream.recipe import Recipe


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
    """

    name: str
    split: Split
    seed: int
    fold: int | None
    fraction: float
    split_hash: str


def trials(cases: Sequence[Case], recipe: Recipe) -> list[Trial]:
    """List the trainings, by share of the labels, then by seed, then by fold.

    Raises:
        UserError: If the cases cannot be split as asked for.
    """
    if recipe.folds is None:
        splits = [split_cases(cases, recipe.splitting)]
        whole = split_hash(cases, splits[0])
    else:
        splits = split_folds(cases, recipe.folds, recipe.splitting)
        whole = split_hash(cases, Split((), (), tuple(range(len(cases)))))
    return [
        Trial(
            _name(recipe, fraction, seed, fold),
            replace(split, train=label_share(cases, split.train, fraction, seed)),
            seed,
            fold if recipe.folds else None,
            fraction,
            whole,
        )
        for fraction in recipe.fraction
        for seed in recipe.seeds
        for fold, split in enumerate(splits)
    ]


def _name(recipe: Recipe, fraction: float, seed: int, fold: int) -> str:
    parts = []
    if len(recipe.fraction) > 1:
        parts.append(f"share_{fraction:g}")
    if len(recipe.seeds) > 1:
        parts.append(f"seed_{seed}")
    if recipe.folds:
        parts.append(f"fold_{fold}")
    return "/".join(parts)
