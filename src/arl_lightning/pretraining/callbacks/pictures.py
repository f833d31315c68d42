"""Pictures of what the decoder makes of hidden patches, one row an anatomy.

Legend: B images, C channels, N patches.
"""

from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import matplotlib.figure
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from arl_lightning.data.batch import PretrainingBatch
from arl_lightning.distributed.fsdp2 import FSDP2Strategy
from arl_lightning.models.patches import patchify, unpatchify
from arl_lightning.objectives.adversarial import compose
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.views import draw_mask

COLUMNS = ("input", "masked", "reconstruction", "pasted")
HIDDEN_GREY = 0.35
SEARCHED_BATCHES = 200  # for one example of each anatomy; looking makes a GPU wait


class ReconstructionPictures(pl.Callback):
    """Draw the same images, one of each anatomy met first since the run was started or resumed, again and again.

    Args:
        folder: Where `step-NNNNNNN.png` files go.
        every_n_steps: Steps between two pictures; one more is drawn at the end.
        max_rows: Most anatomies shown.
    """

    def __init__(self, folder: Path, every_n_steps: int = 1000, max_rows: int = 17) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.max_rows = max_rows
        self._examples: dict[int, tuple[Tensor, Tensor]] = {}  # anatomy -> first global view, seed
        self._num_searched = 0
        self._last_step = -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect examples, and draw when it is time."""
        if not trainer.is_global_zero and not _is_sharded(trainer):
            return
        if self._num_searched < SEARCHED_BATCHES and len(self._examples) < self.max_rows:
            self._num_searched += 1
            self._collect(batch)
        if trainer.global_step > 0 and trainer.global_step % self.every_n_steps == 0:
            self._draw(trainer, cast(ARL, pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the final state."""
        self._draw(trainer, cast(ARL, pl_module))

    def _collect(self, batch: PretrainingBatch) -> None:
        views = batch["global_views"][:, 0]
        for view, anatomy, seed in zip(views, batch["anatomy"].tolist(), batch["seed"], strict=True):
            if anatomy not in self._examples and len(self._examples) < self.max_rows:
                self._examples[anatomy] = (view.clone(), seed.clone())

    def _draw(self, trainer: pl.Trainer, module: ARL) -> None:
        step = trainer.global_step
        if not module.reconstruction.enabled or not self._examples or step == self._last_step:
            return  # the same on all ranks: each has had a batch by then
        self._last_step = step
        anatomies = sorted(self._examples)
        crops = torch.stack([self._examples[anatomy][0] for anatomy in anatomies])
        seeds = torch.stack([self._examples[anatomy][1] for anatomy in anatomies])
        with trainer.precision_plugin.forward_context():
            panels = reconstruction_panels(module, crops, torch.tensor(anatomies, device=crops.device), seeds)
        if not trainer.is_global_zero:
            return
        figure = draw_panels(panels, [module.vocabulary.name(anatomy) for anatomy in anatomies], step)
        save_figure(figure, self.folder / f"step-{step:07d}.png")
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.add_figure("train/reconstruction", figure, step)


def _is_sharded(trainer: pl.Trainer) -> bool:
    """Whether the networks can only be called by all ranks together."""
    return isinstance(trainer.strategy, FSDP2Strategy)


@torch.no_grad()
def reconstruction_panels(module: ARL, crops: Tensor, anatomy: Tensor, seeds: Tensor) -> Tensor:
    """Return input, masked, reconstruction and pasted pictures in [0, 1].

    Args:
        module: Holds the networks.
        crops: uint8 (B, C, H, W).
        anatomy: (B,) vocabulary indices.
        seeds: (B,) that draw the masks.

    Returns:
        (B, 4, C, H, W).
    """
    images = module.normalize(crops[:, None])
    mask = draw_mask(seeds, 1, module.grid_size, module.masking)
    was_training = module.student.training
    module.student.eval()
    reconstruction = module.reconstruct(images, anatomy, mask)
    module.student.train(was_training)
    patches = patchify(images, module.patch_size)
    hidden = torch.full_like(patches, (HIDDEN_GREY - module.pixels.mean) / module.pixels.std)
    columns = [patches, compose(hidden, patches, mask), reconstruction, compose(reconstruction, patches, mask)]
    panels = torch.stack([unpatchify(column, module.grid_size, module.patch_size) for column in columns], dim=1)
    return (panels * module.pixels.std + module.pixels.mean).clamp(0, 1)


def draw_panels(panels: Tensor, names: list[str], step: int) -> matplotlib.figure.Figure:
    """Lay (B, 4, C, H, W) panels out as a labelled grid, one row for each name."""
    num_rows, num_columns = panels.shape[:2]
    figure = matplotlib.figure.Figure(figsize=(1.7 * num_columns + 0.6, 1.7 * num_rows + 0.5), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    pictures = panels.float().cpu().permute(0, 1, 3, 4, 2).numpy()  # (B, 4, C, H, W) -> (B, 4, H, W, C)
    for row, name in enumerate(names):
        for column, title in enumerate(COLUMNS):
            axis = axes[row, column]
            axis.imshow(np.squeeze(pictures[row, column]), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[], title=title if row == 0 else "", ylabel=name if column == 0 else "")
    figure.suptitle(f"step {step}", fontsize="medium")
    return figure


def save_figure(figure: matplotlib.figure.Figure, path: Path) -> None:
    """Write a PNG under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)
