"""What a pretraining step receives."""

# B samples, G global and L local views of each, C channels

from typing import TypedDict

from torch import Tensor


class PretrainingBatch(TypedDict):
    """One rank's batch; geometry is done, brightness and everything else random is drawn from `seed` on the device.

    Attributes:
        global_views: uint8 (B, G, C, H, W).
        local_views: uint8 (B, L, C, h, w); L may be 0.
        anatomy: int64 (B,), index into the vocabulary, `num_anatomies` for `other`.
        seed: int64 (B,), each sample's seed in this epoch, for `seeds.uniform`.
        key: Names of the samples in their shards.
    """

    global_views: Tensor
    local_views: Tensor
    anatomy: Tensor
    seed: Tensor
    key: list[str]
