"""The pretraining stream as a Lightning DataModule that resumes exactly.

For Lightning the training loader is endless: `trainer.max_steps` ends a run, and epochs pass inside the stream. The
place in the stream is one number, the batches that the trainer has processed, which Lightning saves and restores with
its own loop state, the same on every rank. The loader asks for it whenever it is iterated. Lightning's own epochs were
the alternative: their restart logic takes four branches by where in an epoch a checkpoint was saved, one of which (on
the last batch) passes over an epoch; an endless epoch has no such end. Counting what the loader yielded would be wrong
too, as Lightning fetches one batch ahead and workers more.

The DataModule's own state holds what the place depends on: seed, corpus, layout and segment (`stream/epoch.py`). A run
with the same layout goes on identically; one with other ranks, workers, batches or open shards shares out anew what
the former has left of its epoch; one with another seed or corpus is refused.
"""

import dataclasses
import itertools
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from arl_lightning.data.anatomy import ANATOMIES, AnatomyVocabulary
from arl_lightning.data.batch import PretrainingBatch
from arl_lightning.data.stream.cache import Cache
from arl_lightning.data.stream.collate import Batches
from arl_lightning.data.stream.corpus import Corpus
from arl_lightning.data.stream.epoch import EpochPlan, Layout, Segment
from arl_lightning.data.stream.loader import EndlessLoader
from arl_lightning.data.stream.reader import ShardStream
from arl_lightning.data.stream.transform import PretrainingTransform
from arl_lightning.data.views import MultiCrop
from arl_lightning.errors import UserError

# Crop scale of held-out images.
WHOLE = (1.0, 1.0)

# Smallest values of arguments.
LEAST = {
    "batch_size": 1,
    "num_workers": 0,
    "num_global_views": 1,
    "num_local_views": 0,
    "global_size": 1,
    "local_size": 1,
    "open_shards": 1,
    "read_retries": 0,
    "prefetch_factor": 1,
    "num_val_batches": 1,
}


class PretrainingDataModule(pl.LightningDataModule):
    """Streams views of ultrasound images from packed shards.

    Args:
        shards: Folder of packed shards, or several to be combined: a local path (NFS and Lustre too), an address
            such as https://HOST/FOLDER, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, or `pipe:COMMAND` with `{}` for a
            file's name.
        batch_size: Images in a batch of one rank.
        num_workers: Worker processes of one rank; 0 reads in the training process.
        in_chans: Channels of an image, 1 for grey or 3 for RGB.
        num_global_views: Large crops of an image.
        global_size: Side of a large crop in pixels.
        global_scale: Smallest and largest share of the image that a large crop covers.
        num_local_views: Small crops of an image, 0 for none.
        local_size: Side of a small crop in pixels.
        local_scale: Smallest and largest share of the image that a small crop covers.
        anatomies: Vocabulary that conditions the encoder, without 'other'.
        seed: Changes the order of the images and all random draws on them.
        open_shards: Shards that a worker reads in turn; more mix better and keep more files open.
        cache_folder: Local folder that each shard is copied to when it is first used; in the end it holds all of them.
        read_retries: Further attempts at a shard that cannot be read, after 0.5 s, 1 s, 2 s and so on.
        check_images: Compare each image with the checksum in its record; finds damage that still decodes.
        max_bad_share: Share of the corpus, undecodable images and lost shards, above which the run stops.
        prefetch_factor: Batches that each worker prepares ahead.
        pin_memory: Copy batches to page-locked memory; by default where there is a GPU.
        val_shards: Folder of held-out shards, or several; none by default.
        num_val_batches: Held-out batches, always the same ones: the first of the stream with seed 0, uncropped.
    """

    def __init__(
        self,
        shards: str | list[str],
        batch_size: int = 64,
        num_workers: int = 4,
        in_chans: int = 1,
        num_global_views: int = 2,
        global_size: int = 224,
        global_scale: tuple[float, float] = (0.32, 1.0),
        num_local_views: int = 8,
        local_size: int = 96,
        local_scale: tuple[float, float] = (0.05, 0.32),
        anatomies: list[str] = list(ANATOMIES),  # noqa: B006 (read only; jsonargparse shows it in --help)
        seed: int = 0,
        open_shards: int = 4,
        cache_folder: str | None = None,
        read_retries: int = 4,
        check_images: bool = False,
        max_bad_share: float = 0.01,
        prefetch_factor: int = 2,
        pin_memory: bool | None = None,
        val_shards: str | list[str] | None = None,
        num_val_batches: int = 4,
    ) -> None:
        super().__init__()
        for name, smallest in LEAST.items():
            if locals()[name] < smallest:
                raise UserError(f"data.{name}: {locals()[name]} must be at least {smallest}")
        if not 0 <= max_bad_share <= 1:
            raise UserError(f"data.max_bad_share: {max_bad_share} must be 0 to 1")
        if in_chans not in (1, 3):
            raise UserError(f"data.in_chans: {in_chans} is neither 1 (grey) nor 3 (RGB)")
        self.folders = _listed(shards)
        self.val_folders = _listed(val_shards or [])
        self.num_val_batches = num_val_batches
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.open_shards = open_shards
        self.cache_folder = Path(cache_folder) if cache_folder else None
        self.read_retries = read_retries
        self.max_bad_share = max_bad_share
        self.prefetch_factor = prefetch_factor
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.vocabulary = AnatomyVocabulary(anatomies)
        multi_crop = MultiCrop(num_global_views, global_size, global_scale, num_local_views, local_size, local_scale)
        self.transform = PretrainingTransform(multi_crop, self.vocabulary, in_chans, check_images)
        whole = MultiCrop(1, global_size, WHOLE, 0)
        self.val_transform = PretrainingTransform(whole, self.vocabulary, in_chans, check_images)
        self.segment = Segment()
        self._restored_batches = 0

    @cached_property
    def corpus(self) -> Corpus:
        """The shards, once their manifests and files have been checked."""
        return Corpus.load(self.folders)

    @cached_property
    def val_corpus(self) -> Corpus | None:
        """The held-out shards, if any."""
        return Corpus.load(self.val_folders) if self.val_folders else None

    @property
    def world_size(self) -> int:
        """Ranks of the attached trainer, 1 without one."""
        return self.trainer.world_size if self.trainer else 1

    @property
    def layout(self) -> Layout:
        """Who shares the corpus."""
        return Layout(self.batch_size, self.world_size, self.num_workers, self.open_shards)

    @property
    def plan(self) -> EpochPlan:
        """What every rank and worker reads in any epoch."""
        return EpochPlan(self.corpus.shards, self.seed, self.layout, self.segment)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of each rank in one whole pass over the corpus."""
        return self.plan.whole

    @property
    def num_batches(self) -> int:
        """Batches that the attached trainer has processed since the run's first, resumptions included."""
        if self.trainer is None:
            return self._restored_batches
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]

    @property
    def epoch(self) -> int:
        """The data epoch of the next batch; Lightning's own `current_epoch` does not move."""
        return self.plan.locate(self.num_batches)[0]

    def setup(self, stage: str | None = None) -> None:
        """Check everything about the shards that can be known before training.

        Raises:
            UserError: If shards are missing, too few for the ranks and workers, or name an anatomy unknown here, or
                the cache folder has too little space.
        """
        for anatomy in self.corpus.anatomies:
            self.vocabulary.index(anatomy)
        _ = self.batches_per_epoch
        if self.cache_folder:
            held_out = self.val_corpus.shards if self.val_corpus else ()
            Cache(self.cache_folder).prepare(self.corpus.shards + held_out)

    def train_dataloader(self) -> EndlessLoader:
        """Return the endless loader.

        Raises:
            UserError: If the run's length is not given in steps.
        """
        self._check_max_steps()
        stream = ShardStream(
            self.corpus,
            self.transform,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.world_size,
            num_workers=self.num_workers,
            open_shards=self.open_shards,
            cache_folder=self.cache_folder,
            read_retries=self.read_retries,
        )
        # Not persistent: the loader is iterated once in a run, and its workers live as long as that.
        loader = DataLoader(
            Batches(stream, self.batch_size, self.prefetch_factor),
            batch_size=None,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            pin_memory=self.pin_memory,
        )
        return EndlessLoader(stream, loader, lambda: (self.num_batches, self.segment))

    def val_dataloader(self) -> DataLoader[PretrainingBatch] | list[Any]:
        """Return the fixed held-out batches, kept in memory; none without `val_shards`. Every rank has its own.

        Raises:
            UserError: If the held-out shards hold less than a batch for each rank.
        """
        if self.val_corpus is None:
            return []
        stream = ShardStream(
            self.val_corpus,
            self.val_transform,
            batch_size=self.batch_size,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.world_size,
            cache_folder=self.cache_folder,
            read_retries=self.read_retries,
        )
        num_batches = min(self.num_val_batches, stream.plan.whole)
        batches = list(itertools.islice(DataLoader(stream, self.batch_size), num_batches))
        return DataLoader(cast(Dataset[PretrainingBatch], batches), batch_size=None)

    def _check_max_steps(self) -> None:
        trainer = self.trainer
        if trainer is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.max_steps < 1 or (trainer.max_epochs or 0) > 0:
            raise UserError(
                "trainer.max_steps: must be set, and trainer.max_epochs must not, as the stream has no end; one epoch"
                f" of it is {self.batches_per_epoch} batches"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream and what it depends on, in plain values, the same on every rank."""
        return {
            "seed": self.seed,
            "corpus": self.corpus.sha256,
            "layout": dataclasses.asdict(self.layout),
            "segment": self.plan.segment_at(self.num_batches).state_dict(),
            "num_batches": self.num_batches,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in a checkpoint's segment, or in a new one of what its layout has left if this run's is another.

        Raises:
            UserError: If the seed or the corpus differs.
        """
        for name, present in (("seed", self.seed), ("corpus", self.corpus.sha256)):
            if state_dict[name] != present:
                raise UserError(
                    f"data.{name}: the checkpoint was written with {state_dict[name]}, this run has {present}; resume"
                    " with the former, or start a new run"
                )
        if "segment" not in state_dict:
            raise UserError("the checkpoint is an older version's, with another order of samples; start a new run")
        self.segment = Segment.from_state_dict(state_dict["segment"])
        self._restored_batches = state_dict["num_batches"]
        saved = Layout(**state_dict["layout"])
        if saved != self.layout:
            former = EpochPlan(self.corpus.shards, self.seed, saved, self.segment)
            self.segment = former.remaining(self._restored_batches)
            rank_zero_warn(
                f"the checkpoint was written with {saved}, this run has {self.layout}: what is left of epoch"
                f" {self.segment.epoch} is shared out anew"
            )


def _listed(shards: str | list[str]) -> list[str]:
    return [shards] if isinstance(shards, str) else list(shards)
