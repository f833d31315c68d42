"""What watches a run: progress, throughput, pictures, collapse and the guard against losses that are not finite."""

from arl_lightning.pretraining.callbacks.collapse import CollapseMonitor
from arl_lightning.pretraining.callbacks.guard import FinalCheckpoint, NonFiniteGuard
from arl_lightning.pretraining.callbacks.pictures import ReconstructionPictures
from arl_lightning.pretraining.callbacks.progress import Progress, Throughput

__all__ = ["CollapseMonitor", "FinalCheckpoint", "NonFiniteGuard", "Progress", "ReconstructionPictures", "Throughput"]
