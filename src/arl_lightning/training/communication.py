"""How gradients are exchanged between ranks, and how much of a step that takes."""

import time
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from arl_lightning.distributed.exchanges import Exchanges
from arl_lightning.distributed.reduction import register, time_sharded


class Communication(pl.Callback):
    """Average gradients by our hook, and log `train/communication_share`.

    That is the share of time in which gradients, and sharded weights, were being exchanged. It is what this rank sees,
    time spent waiting for a slower rank included; where the exchange overlaps with computation it is no loss of as much
    time. Small exchanges of losses, lambda and centers are not in it, nor all of those that overlap on a GPU: it is a
    lower bound. Nothing happens in a run of one process.

    Args:
        ordered_sum: Add up the ranks in their order, so that a resumed run has the bits of a straight one; by default
            on CPUs. Sharded gradients have their bits anyway.
        smoothing: Share of the past in the running means.
    """

    def __init__(self, ordered_sum: bool | None = None, smoothing: float = 0.9) -> None:
        self.ordered_sum = ordered_sum
        self.smoothing = smoothing
        self.exchanges: Exchanges | None = None
        self._ended: float | None = None
        self._means: tuple[float, float] | None = None  # seconds a batch, seconds of it exchanging

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Place the hook, once the strategy has wrapped the networks."""
        self.exchanges = self._ended = self._means = None
        if trainer.world_size == 1:
            return
        device, network = trainer.strategy.root_device, cast(nn.Module, trainer.strategy.model)
        self.exchanges = Exchanges.on(device)
        if isinstance(network, DistributedDataParallel):
            ordered = device.type == "cpu" if self.ordered_sum is None else self.ordered_sum
            register(network, self.exchanges, ordered)
        else:
            time_sharded(network, self.exchanges)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave validation out of the share."""
        self._ended = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the running mean; the first batch, which builds and warms up, is left out."""
        if self.exchanges is None:
            return
        now, exchanging = time.perf_counter(), self.exchanges.take()
        if self._ended is not None:
            latest = (now - self._ended, exchanging)
            past = self._means or latest
            kept = self.smoothing
            self._means = (kept * past[0] + (1 - kept) * latest[0], kept * past[1] + (1 - kept) * latest[1])
            share = self._means[1] / self._means[0]
            pl_module.log("train/communication_share", torch.tensor(share), batch_size=1)
        self._ended = now
