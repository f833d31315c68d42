"""How long exchanges between ranks were under way, without waiting for any of them.

On CPUs an exchange begins and ends at a time of the clock. On a GPU the process runs ahead of its device: events on the
streams mark both, and an exchange counts once the device has passed its end.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist


class Mark(Protocol):
    """A moment, of this process or of a device."""

    def passed(self) -> bool:
        """Whether it has come."""

    def until(self, other: Any) -> float:
        """Return the seconds from here to another moment of the same kind; negative where that is earlier."""


class HostMark:
    """Now, by the clock."""

    def __init__(self) -> None:
        self.at = time.perf_counter()

    def passed(self) -> bool:
        """Whether it has come: it has."""
        return True

    def until(self, other: "HostMark") -> float:
        """Return the seconds to another mark."""
        return other.at - self.at


class DeviceMark:
    """The moment at which a GPU has done what its current stream holds now."""

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def passed(self) -> bool:
        """Whether the GPU is beyond it."""
        return self.event.query()

    def until(self, other: "DeviceMark") -> float:
        """Return the seconds to another mark, both passed."""
        return self.event.elapsed_time(other.event) / 1000


@dataclass
class Exchange:
    """One exchange: its beginning, and its end once that is known."""

    start: Mark
    stop: Mark | None = None


class Exchanges:
    """Seconds in which at least one exchange was under way; two at a time count once.

    Args:
        now: Marks the present.
    """

    def __init__(self, now: Callable[[], Mark] = HostMark) -> None:
        self.now = now
        self.num_gradients = 0  # elements of gradients that were averaged
        self._open: deque[Exchange] = deque()  # in the order in which they began
        self._counted: Mark | None = None  # all before it has been returned

    @classmethod
    def on(cls, device: torch.device) -> "Exchanges":
        """Time exchanges of tensors on a device."""
        return cls(DeviceMark if device.type == "cuda" else HostMark)

    def begin(self) -> Exchange:
        """Note that an exchange begins, on the current stream."""
        exchange = Exchange(self.now())
        self._open.append(exchange)
        return exchange

    def end(self, exchange: Exchange) -> None:
        """Note that an exchange is over when the current stream comes here; any thread may call."""
        exchange.stop = self.now()

    def end_with(self, exchange: Exchange, work: dist.Work | None) -> None:
        """Note the end of an exchange when its work is done, or has failed; None stands for work that is done."""
        if work is None:
            self.end(exchange)
        else:
            # On a GPU callbacks run on a stream that waits for the work.
            work.get_future().add_done_callback(lambda _: self.end(exchange))

    def take(self) -> float:
        """Return the seconds since the last call, up to the first exchange that is still under way.

        A lower bound on GPUs: where one that was begun later, on another stream, starts earlier on the device, its time
        before the other's start is left out.
        """
        seconds = 0.0
        while self._open and (stop := self._open[0].stop) is not None and stop.passed():
            start = self._open.popleft().start
            since = start if self._counted is None or self._counted.until(start) > 0 else self._counted
            new = since.until(stop)
            if new > 0:  # otherwise it passed within a longer one
                seconds, self._counted = seconds + new, stop
        return seconds
