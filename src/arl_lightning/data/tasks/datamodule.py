"""Batches of a task's cases for Lightning.

B images, C channels, S side in pixels.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict, get_args

import cv2
import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from arl_lightning.data.seeds import sample_seed
from arl_lightning.data.tasks.augment import Augment, Transform
from arl_lightning.data.tasks.case import Listing
from arl_lightning.data.tasks.fit import Fit
from arl_lightning.data.tasks.images import CaseImages
from arl_lightning.data.tasks.sampling import Draw, RankBatches, TrainSampler
from arl_lightning.data.tasks.splits import Split
from arl_lightning.data.tasks.transforms import eval_transform, train_transform
from arl_lightning.distributed.collectives import world_size
from arl_lightning.errors import UserError

NO_LABEL = -1


class TaskBatch(TypedDict):
    """A batch.

    Attributes:
        image: uint8 (B, C, S, S).
        anatomy: int64 (B,), indexes into the vocabulary.
        label: int64 (B,), indexes of classes, -1 where there is none.
        index: int64 (B,), places in the listing.
        mask: int64 (B, S, S), only for segmentation: 0 for background, k for structure k.
    """

    image: Tensor
    anatomy: Tensor
    label: Tensor
    index: Tensor
    mask: NotRequired[Tensor]


@dataclass(frozen=True)
class Loading:
    """How cases become batches.

    Args:
        image_size: Side of the square that the network sees, in pixels; that of the encoder's checkpoint where None.
        fit: squash scales both sides on their own, pad adds black, crop takes the middle square.
        batch_size: Images in a batch of one rank.
        num_workers: Processes of one rank that prepare batches; 0 prepares them in the training process, which is
            fastest to start and enough for a few hundred decoded images.
        keep_gb: Most memory for decoded pixels of one rank, in GB; above, they are decoded at each use.
        balance: none draws every training image once an epoch, sampler draws all classes equally often.
    """

    image_size: int | None = None
    fit: Fit = "squash"
    batch_size: int = 32
    num_workers: int = 0
    keep_gb: float = 4.0
    balance: Literal["none", "sampler"] = "none"

    def __post_init__(self) -> None:
        for name, least in (("image_size", 1), ("batch_size", 1), ("num_workers", 0), ("keep_gb", 0)):
            if (value := getattr(self, name)) is not None and not value >= least:  # nan is refused too
                raise UserError(f"loading.{name} {value:g}: must be at least {least}")
        for name, known in (("fit", get_args(Fit)), ("balance", ("none", "sampler"))):
            if getattr(self, name) not in known:
                raise UserError(f"loading.{name} {getattr(self, name)}: must be one of {', '.join(known)}")


class Item(TypedDict):
    """One case on its way into a batch: numpy arrays, and its place and label."""

    image: np.ndarray
    mask: np.ndarray | None
    label: int
    index: int


class CaseDataset(Dataset[Item]):
    """Cases by what a sampler draws.

    Args:
        images: Their pixels.
        listing: Names their classes.
        transform: Brings an image and its mask to size.
        with_masks: Whether masks are given.
        seed: Of the augmentation, with the epoch and the case's key.
    """

    def __init__(self, images: CaseImages, listing: Listing, transform: Transform, with_masks: bool, seed: int) -> None:
        self.images, self.listing, self.transform, self.with_masks, self.seed = (
            images,
            listing,
            transform,
            with_masks,
            seed,
        )
        self.labels = label_indexes(listing)

    def __len__(self) -> int:
        return len(self.listing.cases)

    def __getitem__(self, draw: Draw) -> Item:
        key = self.listing.cases[draw.place].key
        seed = sample_seed(self.seed, draw.epoch, f"{key} {draw.repeat}")
        mask = self.images.mask(draw.place) if self.with_masks else None
        image, mask = self.transform(self.images.image(draw.place), mask, seed)
        return {"image": image, "mask": mask, "label": self.labels[draw.place], "index": draw.place}


def label_indexes(listing: Listing) -> list[int]:
    """Return each case's class as an index, -1 where it has none."""
    indexes = {name: index for index, name in enumerate(listing.classes)}
    return [indexes.get(case.label or "", NO_LABEL) for case in listing.cases]


@dataclass(frozen=True)
class Collate:
    """Joins cases to a batch.

    Args:
        anatomy: Of all of them.
    """

    anatomy: int

    def __call__(self, items: Sequence[Item]) -> TaskBatch:
        """Return a batch."""
        images = np.stack([item["image"] for item in items])  # (B, S, S) or (B, S, S, C)
        images = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        batch: TaskBatch = {
            "image": torch.from_numpy(images),
            "anatomy": torch.full((len(items),), self.anatomy, dtype=torch.int64),
            "label": torch.tensor([item["label"] for item in items], dtype=torch.int64),
            "index": torch.tensor([item["index"] for item in items], dtype=torch.int64),
        }
        masks = [item["mask"] for item in items if item["mask"] is not None]
        if masks:
            batch["mask"] = torch.from_numpy(np.stack(masks).astype(np.int64))
        return batch


class TimedLoader:
    """A DataLoader that counts the seconds spent waiting for its batches.

    Lightning leaves it as it is, for it is no DataLoader: its sampler knows the ranks, and is told the epoch where it
    has one.

    Args:
        loader: The DataLoader.
    """

    def __init__(self, loader: DataLoader[Item]) -> None:
        self.loader = loader
        self.batch_sampler = loader.batch_sampler  # where Lightning looks for what to tell the epoch
        self.seconds_waited = 0.0  # since the beginning

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[TaskBatch]:
        start = time.perf_counter()
        for batch in self.loader:
            self.seconds_waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()
        self.seconds_waited += time.perf_counter() - start


class TaskDataModule(pl.LightningDataModule):
    """Batches of a task's parts.

    With several ranks, training draws equally many for each. Of the other parts rank r of W has every W-th case from
    the r-th on, see `RankBatches`: who gathers results puts them in order by `index`, and takes each index once.

    Args:
        images: Pixels of the cases.
        listing: The cases.
        split: Which are trained on, chosen by and reported on.
        anatomy: Index of the images' anatomy.
        loading: How cases become batches; its image size must be there.
        augment: How training images are varied.
        with_masks: Whether batches have masks.
        seed: Of the order and the augmentation.

    Raises:
        ValueError: If there is no image size.
    """

    def __init__(
        self,
        images: CaseImages,
        listing: Listing,
        split: Split,
        anatomy: int,
        loading: Loading,
        augment: Augment,
        with_masks: bool,
        seed: int,
    ) -> None:
        super().__init__()
        if loading.image_size is None:
            raise ValueError("loading.image_size: the encoder's own has to be filled in")
        self.image_size = loading.image_size
        self.images, self.listing, self.split, self.anatomy = images, listing, split, anatomy
        self.loading, self.augment, self.with_masks, self.seed = loading, augment, with_masks, seed

    def train_dataloader(self) -> TimedLoader:
        """Return shuffled, augmented training cases; a last batch of one, which no batch norm takes, is left out."""
        places = self.split.train
        labels = label_indexes(self.listing)
        classes = [labels[place] for place in places] if self.loading.balance == "sampler" else None
        sampler = TrainSampler(places, classes, self.seed, _rank(), world_size())
        batch_size = self.loading.batch_size
        loader = DataLoader(
            self._dataset(train_transform(self.augment, self.image_size, self.loading.fit)),
            batch_size=batch_size,
            sampler=sampler,
            drop_last=len(sampler) > batch_size and len(sampler) % batch_size == 1,
            **self._options(),
        )
        return TimedLoader(loader)

    def val_dataloader(self) -> TimedLoader:
        """Return the validation cases."""
        return self.eval_loader(self.split.val)

    def test_dataloader(self) -> TimedLoader:
        """Return the test cases."""
        return self.eval_loader(self.split.test)

    def predict_dataloader(self) -> TimedLoader:
        """Return all cases, those of no part too."""
        return self.eval_loader(range(len(self.listing.cases)))

    def eval_loader(self, places: Sequence[int]) -> TimedLoader:
        """Return cases in order, as they are."""
        batches = RankBatches(places, self.loading.batch_size, _rank(), world_size())
        transform = eval_transform(self.loading.fit, self.image_size)
        return TimedLoader(DataLoader(self._dataset(transform), batch_sampler=batches, **self._options()))

    def _dataset(self, transform: Transform) -> CaseDataset:
        return CaseDataset(self.images, self.listing, transform, self.with_masks, self.seed)

    def _options(self) -> dict[str, Any]:
        workers = self.loading.num_workers
        return {
            "num_workers": workers,
            "collate_fn": Collate(self.anatomy),
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": _start_worker if workers else None,
            "persistent_workers": workers > 0,
        }


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # 1 would wait for ever for idle threads of the process that this one was forked from
