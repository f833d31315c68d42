"""What watches a pretraining run: pictures, collapse, and guards against losses and data that go bad."""

from arl_lightning.pretraining.callbacks.collapse import CollapseMonitor
from arl_lightning.pretraining.callbacks.data import DataGuard
from arl_lightning.pretraining.callbacks.guard import NonFiniteGuard
from arl_lightning.pretraining.callbacks.pictures import ReconstructionPictures

__all__ = [
    "CollapseMonitor",
    "DataGuard",
    "NonFiniteGuard",
    "ReconstructionPictures",
]
