"""What watches a run: progress, throughput, pictures, collapse, and guards against losses and data that go bad."""

from arl_lightning.pretraining.callbacks.collapse import CollapseMonitor
from arl_lightning.pretraining.callbacks.data import DataGuard
from arl_lightning.pretraining.callbacks.guard import FinalCheckpoint, NonFiniteGuard
from arl_lightning.pretraining.callbacks.pictures import ReconstructionPictures
from arl_lightning.pretraining.callbacks.progress import Progress, Throughput

__all__ = [
    "CollapseMonitor",
    "DataGuard",
    "FinalCheckpoint",
    "NonFiniteGuard",
    "Progress",
    "ReconstructionPictures",
    "Throughput",
]
