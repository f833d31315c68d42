"""Counts what the stream cannot use, and stops all ranks together where it is too much."""

from typing import Any

import lightning.pytorch as pl

from arl_lightning.data.pretraining import PretrainingDataModule
from arl_lightning.data.stream.damage import DamageReport
from arl_lightning.data.stream.loader import EndlessLoader
from arl_lightning.distributed.collectives import all_reduce_sum
from arl_lightning.errors import UserError
from arl_lightning.training.checkpoints import RunCheckpoints


class DataGuard(pl.Callback):
    """Log `train/data/replaced_images` and `train/data/lost_shards` of all ranks; stop above `data.max_bad_share`.

    No worker stops by itself, as the other ranks would wait for it in vain: the counts are summed over all ranks, which
    then judge alike.

    Args:
        checkpoints: Of the run; the last step is saved before stopping.
        every_n_steps: Steps between two looks.
    """

    def __init__(self, checkpoints: RunCheckpoints, every_n_steps: int = 100) -> None:
        self.checkpoints = checkpoints
        self.every_n_steps = every_n_steps
        self._last_step = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sum up, log and judge when it is time, which is at the same step on every rank.

        Raises:
            UserError: If too much of the corpus cannot be used.
        """
        step, loader, data = trainer.global_step, trainer.train_dataloader, trainer.datamodule  # type: ignore[attr-defined]
        if step == self._last_step or step % self.every_n_steps != 0:
            return
        if not isinstance(loader, EndlessLoader) or not isinstance(data, PretrainingDataModule):
            return
        self._last_step = step
        total = all_reduce_sum(loader.stream.damage.total().to(pl_module.device)).cpu()
        report = DamageReport(loader.stream.corpus.shards, total)
        counts = {"train/data/replaced_images": report.num_replaced, "train/data/lost_shards": len(report.lost)}
        pl_module.log_dict({name: float(count) for name, count in counts.items()}, batch_size=len(batch["key"]))
        if report.share > data.max_bad_share:
            path = self.checkpoints.save(trainer)
            raise UserError(
                f"step {step}: {report}, more than data.max_bad_share {data.max_bad_share:g}; copy or pack these shards"
                f" again and go on with --ckpt_path last, or raise the limit (checkpoint: {path})"
            )
