"""Finished runs read back: which folders belong to one, folds pooled, seeds put together.

A run's folder holds `results.json`, or folders below it do: one for each share of labels, seed and fold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from arl_lightning.errors import UserError
from arl_lightning.evaluation.bootstrap import Statistic
from arl_lightning.evaluation.metrics import metric_names
from arl_lightning.evaluation.overlap_table import COLUMNS, OverlapTable
from arl_lightning.evaluation.predictions import Predictions, average, concatenate
from arl_lightning.evaluation.results import choose_cut, statistic_of
from arl_lightning.evaluation.schema import FILE, RunResults, read_results
from arl_lightning.evaluation.tables import FILE as TABLE
from arl_lightning.evaluation.tables import read_parts

MUST_AGREE = ("kind", "task", "protocol", "checkpoint")  # within one run

Key = TypeVar("Key", int | None, float)


@dataclass(frozen=True)
class Member:
    """One training and its test.

    Attributes:
        folder: Where it lies.
        results: Its `results.json`.
    """

    folder: Path
    results: RunResults


@dataclass(frozen=True)
class Scored:
    """The test part with what was said of it, of either kind.

    Attributes:
        test: Predictions, or scores of masks.
        validation: Of the validation part, None where there is none or for masks.
    """

    test: Predictions | OverlapTable
    validation: Predictions | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that there are."""
        if isinstance(self.test, OverlapTable):
            return COLUMNS
        return metric_names(len(self.test.classes), self.test.positive)

    @property
    def num_images(self) -> int:
        """Images, or clips."""
        return len(set(self.test.keys))

    def statistic(self, names: Sequence[str]) -> Statistic:
        """Return what is resampled."""
        if isinstance(self.test, OverlapTable):
            return self.test.statistic
        return statistic_of(self.test, choose_cut(self.test, self.validation).of_image, names)

    def per_video(self) -> "Scored":
        """Return clips for their frames.

        Raises:
            UserError: If frames of one clip have several labels, or these are masks.
        """
        if isinstance(self.test, OverlapTable):
            raise UserError("per_video: masks are scored by image")
        return Scored(self.test.per_video(), None if self.validation is None else self.validation.per_video())


def find_members(run: Path) -> list[Member]:
    """Return the trainings in a folder.

    Raises:
        UserError: If there is none, or they are of several runs.
    """
    folders = [run] if (run / FILE).is_file() else sorted(path.parent for path in run.rglob(FILE))
    if not folders:
        raise UserError(f"{run / FILE}: missing, also in the folders below; name a folder that a finished run left")
    members = [Member(folder, read_results(folder)) for folder in folders]
    first = members[0]
    for each in members[1:]:
        for name in MUST_AGREE:
            own, other = dict(first.results)[name], dict(each.results)[name]
            if own != other:
                raise UserError(f"{run}: holds several runs: {name} {own} in {first.folder}, {other} in {each.folder}")
    return members


def by(members: Sequence[Member], key: Callable[[Member], Key]) -> dict[Key, list[Member]]:
    """Group members, the smallest key first; None comes before numbers."""
    groups: dict[Key, list[Member]] = {}
    for each in sorted(members, key=lambda member: -1.0 if key(member) is None else float(key(member) or 0)):
        groups.setdefault(key(each), []).append(each)
    return groups


def by_share(members: Sequence[Member]) -> dict[float, list[Member]]:
    """Group members by the share of labels that they used."""
    return by(members, lambda member: member.results["fraction"])


def by_seed(members: Sequence[Member]) -> dict[int | None, list[Member]]:
    """Group members by seed."""
    return by(members, lambda member: member.results["seed"])


def load(member: Member) -> Scored:
    """Read a member's predictions.

    Raises:
        UserError: If the file is missing or damaged.
    """
    path = member.folder / TABLE
    if member.results["kind"] == "segmentation":
        return Scored(OverlapTable.read_parquet(path))
    parts = read_parts(path)
    if "test" not in parts:
        raise UserError(f"{path}: has no predictions of the test part")
    fold = member.results["fold"]
    if fold is not None:
        parts = {name: replace(each, folds=np.full(len(each), fold)) for name, each in parts.items()}
    return Scored(parts["test"], parts.get("val"))


def pool_folds(members: Sequence[Member]) -> Scored:
    """Put the folds of one seed together.

    Raises:
        UserError: If a fold is missing, or two test the same image.
    """
    folds = sorted(each.results["fold"] or 0 for each in members)
    if len(members) == 1:
        return load(members[0])
    if folds != list(range(len(members))):
        raise UserError(f"{members[0].folder.parent}: folds {folds} are not all there; finish the run")
    loaded = [load(each) for each in members]
    tables = [each.test for each in loaded if isinstance(each.test, OverlapTable)]
    if tables:
        return Scored(join_tables(tables))
    test = [each.test for each in loaded if isinstance(each.test, Predictions)]
    validation = [each.validation for each in loaded if each.validation is not None]
    return Scored(concatenate(test), concatenate(validation) if len(validation) == len(loaded) else None)


def average_seeds(seeds: Sequence[Scored]) -> Scored:
    """Return mean probabilities over seeds; of masks the mean scores.

    A validation part that differs from seed to seed is left out.

    Raises:
        UserError: If the seeds are tested on different images.
    """
    if len(seeds) == 1:
        return seeds[0]
    tables = [each.test for each in seeds if isinstance(each.test, OverlapTable)]
    if tables:
        return Scored(_average_tables(tables))
    validation = [each.validation for each in seeds if each.validation is not None]
    same = len(validation) == len(seeds) and len({frozenset(each.keys) for each in validation}) == 1
    test = average([each.test for each in seeds if isinstance(each.test, Predictions)])
    return Scored(test, average(validation) if same else None)


def join_tables(tables: Sequence[OverlapTable]) -> OverlapTable:
    """Put the rows of folds together.

    Raises:
        UserError: If an image is in two of them.
    """
    return OverlapTable(
        keys=[key for each in tables for key in each.keys],
        patients=[patient for each in tables for patient in each.patients],
        structures=[structure for each in tables for structure in each.structures],
        **{name: np.concatenate([getattr(each, name) for each in tables]) for name in COLUMNS},
        videos=[video for each in tables for video in each.videos],
    )


def align_table(first: OverlapTable, other: OverlapTable) -> OverlapTable:
    """Return a table with its rows in the order of the first's.

    Raises:
        UserError: If the images or structures differ.
    """
    places = {row: place for place, row in enumerate(zip(other.keys, other.structures, strict=True))}
    wanted = list(zip(first.keys, first.structures, strict=True))
    if strange := set(wanted) ^ places.keys():
        raise UserError(f"{len(strange)} masks are in one alone, such as {' of '.join(reversed(min(strange)))}")
    order = [places[row] for row in wanted]
    scores = {name: getattr(other, name)[order] for name in COLUMNS}
    return OverlapTable(first.keys, first.patients, first.structures, **scores, videos=first.videos)


def _average_tables(tables: Sequence[OverlapTable]) -> OverlapTable:
    first = tables[0]
    aligned = [align_table(first, each) for each in tables]
    means = {name: np.mean([getattr(each, name) for each in aligned], axis=0) for name in COLUMNS}
    return replace(first, **means)
