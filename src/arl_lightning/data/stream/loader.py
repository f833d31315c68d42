"""The DataLoader that the trainer sees: one epoch without an end, from wherever training stands."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from arl_lightning.data.batch import PretrainingBatch
from arl_lightning.data.stream.collate import own
from arl_lightning.data.stream.epoch import Segment
from arl_lightning.data.stream.reader import ShardStream
from arl_lightning.errors import UserError


class EndlessLoader:
    """A DataLoader over a stream that starts wherever training stands when it is iterated.

    It has no length, so that Lightning sees one epoch without an end.

    Args:
        stream: What the DataLoader reads.
        loader: The DataLoader; its batches are `own`ed here, before it is asked for the next.
        position: Returns the number of batches behind, and the segment they are counted in.
    """

    def __init__(
        self, stream: ShardStream[Any], loader: DataLoader[Any], position: Callable[[], tuple[int, Segment]]
    ) -> None:
        self.stream = stream
        self.loader = loader
        self.position = position
        self.seconds_waited = 0.0  # for batches, since the beginning

    def __iter__(self) -> Iterator[PretrainingBatch]:
        self.stream.seek(*self.position())
        batches = iter(self.loader)
        try:
            while True:
                start = time.perf_counter()
                batch = own(next(batches))  # the stream has no end
                self.seconds_waited += time.perf_counter() - start
                yield batch
        except UserError as error:
            # A worker's exception arrives with its traceback in the message; the user's line is its end.
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from error
