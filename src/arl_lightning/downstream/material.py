"""What all trials of a recipe share: the task's cases with their pixels, and the encoder that each starts from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import arl_lightning
from arl_lightning.data.anatomy import OTHER, AnatomyVocabulary
from arl_lightning.data.tasks.case import Finding, Listing
from arl_lightning.data.tasks.check import refuse_damage, without_damage
from arl_lightning.data.tasks.datamodule import TaskDataModule, TimedLoader
from arl_lightning.data.tasks.images import CaseImages, prepare
from arl_lightning.data.tasks.open import open_task
from arl_lightning.data.tasks.splits import Split
from arl_lightning.data.tasks.task import Task
from arl_lightning.data.wording import one_line
from arl_lightning.distributed.collectives import is_first_rank
from arl_lightning.downstream.encoders import Backbone, Origin, open_backbone
from arl_lightning.downstream.inference import Scored
from arl_lightning.downstream.recipe import Recipe
from arl_lightning.errors import UserError
from arl_lightning.evaluation.predictions import Part, Predictions

CROP_MARGIN = 1.5  # kept pixels of the shorter side for each pixel of the network's: crops need some to spare
NO_ANATOMY = "none"


@dataclass(frozen=True)
class Material:
    """A recipe with its files read.

    Attributes:
        recipe: The recipe.
        task: The opened task.
        listing: Its usable cases.
        images: Their pixels.
        image_size: Pixels a side that the encoder sees.
        origin: Where the encoder's weights come from.
        conditioned: Whether anatomies reach the encoder's blocks.
        vocabulary: The anatomies that the encoder knows.
        anatomy: What it is told, one of these or `other`.
        notes: Findings that stop nothing.
        features: Of all cases, kept by frozen protocols for the next trial.
    """

    recipe: Recipe
    task: Task
    listing: Listing
    images: CaseImages
    image_size: int
    origin: Origin
    conditioned: bool
    vocabulary: AnatomyVocabulary
    anatomy: str
    notes: tuple[Finding, ...]
    features: dict[int | None, Scored] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as they are written and drawn: a folder's name need not be valid Unicode."""
        return tuple(map(one_line, self.listing.classes))

    @property
    def positive(self) -> int | None:
        """Index of the positive class, where there are two."""
        classes = self.listing.classes
        return classes.index(self.listing.positive) if self.listing.positive in classes and len(classes) == 2 else None

    def backbone(self) -> Backbone:
        """Build the encoder anew, with the checkpoint's weights; random ones are drawn from torch's generator."""
        return open_backbone(self.recipe.checkpoint, self.recipe.encoder, self.image_size)[0]

    def datamodule(self, split: Split, seed: int, with_masks: bool = False) -> TaskDataModule:
        """Return the loaders of a split, at the encoder's image size."""
        return TaskDataModule(
            images=self.images,
            listing=self.listing,
            split=split,
            anatomy=self.vocabulary.index(self.anatomy),
            loading=replace(self.recipe.loading, image_size=self.image_size),
            augment=self.recipe.augment,
            with_masks=with_masks,
            seed=seed,
        )

    def loader(self, places: Sequence[int]) -> TimedLoader:
        """Return some cases as they are, without their masks."""
        return self.datamodule(Split((), (), ()), seed=0).eval_loader(places)

    def description(self, backbone: Backbone) -> dict[str, Any]:
        """Return, as plain values, what rebuilds a trained network and reads images for it."""
        return {
            "version": arl_lightning.__version__,
            "task": self.task.name,
            "classes": list(self.class_names),
            "positive": None if self.listing.positive is None else one_line(self.listing.positive),
            "structures": list(self.listing.structures),
            "anatomy": self.anatomy,
            "encoder": backbone.construction,
            "pooling": self.recipe.encoder.pooling,
            "image_size": self.image_size,
            "fit": self.recipe.loading.fit,
        }

    def labels(self, places: tuple[int, ...]) -> Tensor:
        """Return (N,) class indices of some cases."""
        indices = {name: index for index, name in enumerate(self.listing.classes)}
        return torch.tensor([indices[str(self.listing.cases[place].label)] for place in places])

    def predictions(self, scored: Scored, part: Part, seed: int, fold: int | None) -> Predictions:
        """Name the cases that a classifier scored."""
        cases = [self.listing.cases[place] for place in scored.index.tolist()]
        return Predictions(
            keys=[case.key for case in cases],
            patients=[case.patient for case in cases],
            videos=[case.video for case in cases],
            labels=scored.labels.numpy(),
            probabilities=scored.values.numpy(),
            classes=self.class_names,
            positive=self.positive,
            part=part,
            folds=None if fold is None else torch.full((len(cases),), fold).numpy(),
            seed=seed,
        )


def open_material(recipe: Recipe, with_masks: bool) -> Material:
    """Open the encoder first, which is quick, then list and decode the task's cases.

    Raises:
        UserError: If the checkpoint, the set or a file cannot be used, or the task has no labels or masks as wanted.
    """
    task = open_task(recipe.task, recipe.root, recipe.table, recipe.options)
    backbone, origin, image_size = open_backbone(recipe.checkpoint, recipe.encoder, recipe.loading.image_size)
    anatomy = _anatomy(recipe, task, backbone.vocabulary)
    listing = _wanted(task.listing(), recipe.task, with_masks)
    images, findings = prepare(
        listing,
        round(CROP_MARGIN * image_size),
        backbone.in_chans,
        with_masks,
        recipe.loading.keep_gb,
        show_progress=is_first_rank(),
        released=recipe.folds is None and recipe.splitting.source != "drawn",
    )
    if damaged := refuse_damage(findings, recipe.task, recipe.skip_damaged):
        listing = without_damage(listing, damaged, images.pictures, classes=not with_masks)
        images, findings = images.restricted(listing), [each for each in findings if not each.stops]
    return Material(
        recipe,
        task,
        listing,
        images,
        image_size,
        origin,
        backbone.is_conditioned,
        backbone.vocabulary,
        anatomy,
        tuple(findings),
    )


def _anatomy(recipe: Recipe, task: Task, vocabulary: AnatomyVocabulary) -> str:
    if recipe.anatomy == NO_ANATOMY:
        return OTHER
    try:
        return vocabulary.canonical(recipe.anatomy or task.anatomy)
    except UserError as error:
        raise UserError(
            f"--anatomy: the checkpoint was trained without it ({error}); give one of its own, or none"
        ) from error


def _wanted(listing: Listing, task: str, with_masks: bool) -> Listing:
    """Leave out cases without what the protocol learns from."""
    if with_masks and not listing.structures:
        raise UserError(f"task {task}: has no masks to segment; use finetune, or name `structures` and a column mask")
    if not with_masks and len(listing.classes) < 2:
        raise UserError(f"task {task}: has no classes to tell apart; use segment, or a table with a column label")
    kept = [case for case in listing.cases if (case.has_mask if with_masks else case.label is not None)]
    if not kept:
        raise UserError(f"task {task}: none of {len(listing.cases)} cases has a {'mask' if with_masks else 'label'}")
    return replace(listing, cases=tuple(kept))
