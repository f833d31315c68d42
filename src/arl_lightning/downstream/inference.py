"""Runs a network over cases without training it, over all ranks.

Legend: B images of a batch, N cases, C channels, any trailing shape of what is computed.
"""

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from arl_lightning.data.tasks.datamodule import TimedLoader
from arl_lightning.distributed.collectives import gather_rows
from arl_lightning.downstream.options import Devices

Row = tuple[Tensor, Tensor, Tensor]  # of a batch: places (B,), values (B, ...), labels (B,)


@dataclass(frozen=True)
class Scored:
    """What was computed for some cases.

    Attributes:
        index: (N,) places in the listing, ascending, each once.
        values: (N, ...) such as probabilities or features.
        labels: (N,) int64, -1 where a case has none.
    """

    index: Tensor
    values: Tensor
    labels: Tensor


def run_over(
    network: nn.Module,
    function: Callable[[Tensor, Tensor], Tensor],
    loader: TimedLoader,
    devices: Devices,
    name: str | None = None,
) -> Scored:
    """Compute something for every case of a loader, gathered from all ranks.

    Args:
        network: Moved to the device, and put into evaluation mode.
        function: Of uint8 images (B, C, H, W) and anatomies (B,); one of the network's methods.
        loader: The cases.
        devices: What it runs on, and at which precision.
        name: Of the progress bar; none where None.
    """
    device = device_of(devices)
    network.to(device).eval()
    rows: list[Row] = []
    bar = tqdm(loader, desc=name, unit="batch", file=sys.stderr, disable=name is None or not sys.stderr.isatty())
    with torch.inference_mode(), precision_context(devices, device):
        for batch in bar:
            values = function(batch["image"].to(device), batch["anatomy"].to(device))
            rows.append((batch["index"], values.cpu(), batch["label"]))
    scored = collect(rows)
    return Scored(scored.index.clone(), scored.values.clone(), scored.labels.clone())  # usable in training again


def collect(rows: list[Row]) -> Scored:
    """Gather rows from all ranks; a case that several saw counts once."""
    gathered = [row for rows_of_rank in gather_rows(rows) for row in rows_of_rank]
    index, values, labels = (torch.cat(column) for column in zip(*gathered, strict=True))
    order = torch.argsort(index, stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = index[order][1:] != index[order][:-1]
    order = order[first]
    return Scored(index[order], values[order], labels[order])


def device_of(devices: Devices) -> torch.device:
    """Return this rank's device."""
    if devices.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def precision_context(devices: Devices, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a network computes at the wanted precision."""
    return torch.autocast(device.type, torch.bfloat16) if devices.precision == "bf16-mixed" else nullcontext()
