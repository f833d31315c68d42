"""Schedules over the training steps; each a pure function, so that resuming needs no state.

Legend: `progress` is the share of the run that is done, in [0, 1].
"""

import math


def cosine(progress: float, start: float, end: float) -> float:
    """Go from start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def linear_then_constant(progress: float, share: float, start: float, end: float) -> float:
    """Go from start to end in a straight line over the first share of the run, then stay."""
    return end if progress >= share else start + (end - start) * progress / share


def warmup_cosine(progress: float, warmup: float, peak: float, end: float) -> float:
    """Rise from zero to the peak over the warm-up share, then fall to the end along half a cosine."""
    if progress < warmup:
        return peak * progress / warmup
    return cosine((progress - warmup) / max(1 - warmup, 1e-12), peak, end)


def scaled_learning_rate(base: float, global_batch_size: int) -> float:
    """Scale a base rate, given for 256 images, to the global batch (the linear rule)."""
    return base * global_batch_size / 256
