"""How gradients are averaged over ranks: in the order of ranks where bits matter, and timed in any case.

DistributedDataParallel packs gradients into buckets in one order in its first iteration and in another one from then
on, and a ring adds up the ranks in an order that depends on the place in the bucket. With three ranks or more a resumed
run, whose first iteration is another step, then differs in the last bits from one that was never interrupted.

W ranks, n elements of a bucket, c of them on one rank.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from arl_lightning.distributed.exchanges import Exchanges

COMMUTES = 2  # a sum of two ranks has the same bits either way round


def register(network: DistributedDataParallel, exchanges: Exchanges, ordered_sum: bool) -> None:
    """Let the network's gradients be averaged and timed here, from its first backward pass on.

    Args:
        network: Not yet used for a backward pass, and without another communication hook.
        exchanges: Where the time is noted.
        ordered_sum: Add up the ranks in their order, whatever the buckets.
    """
    group = network.process_group
    if ordered_sum and group.size() > COMMUTES:
        network.register_comm_hook(OrderedMean(group, exchanges), OrderedMean.reduce)
    else:
        network.register_comm_hook(RingMean(group, exchanges), RingMean.reduce)


def time_sharded(network: nn.Module, exchanges: Exchanges) -> None:
    """Time what the sharded modules (`fully_shard`) of a network exchange: weights gathered, gradients scattered.

    Their sums need no order: a parameter's place in its group's buffer is always the same. The all-reduce between
    replicas of a hybrid mesh runs outside these calls and is not timed.
    """
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(TimedAllGather(exchanges))
            module.set_custom_reduce_scatter(TimedReduceScatter(exchanges))


class RingMean:
    """The mean by one all-reduce of a bucket, as DistributedDataParallel does without a hook."""

    def __init__(self, group: dist.ProcessGroup, exchanges: Exchanges) -> None:
        self.group = group
        self.exchanges = exchanges

    def reduce(self, bucket: dist.GradBucket) -> Future[Tensor]:
        """Start on a bucket."""
        gradients = bucket.buffer().div_(self.group.size())
        self.exchanges.num_gradients += gradients.numel()
        exchange = self.exchanges.begin()
        work = dist.all_reduce(gradients, group=self.group, async_op=True)
        self.exchanges.end_with(exchange, work)
        return work.get_future().then(lambda done: done.value()[0])


@dataclass
class _Begun:
    """A bucket whose parts are on their way to the ranks that add them up."""

    gradients: Tensor
    scratch: Tensor  # (W, c)
    sizes: list[int]
    received: dist.Work
    result: Future[Tensor]


class OrderedMean:
    """The mean whose every element is the sum over ranks 0, 1, 2 ... in this order.

    Each rank gets all ranks' values of its part of the bucket, adds them up and sends the sum to all: two exchanges of
    n elements, the volume of a ring. Both are all-to-alls, as gloo gathers three times slower than that: 35 MB on four
    ranks of two cores took 223 ms, a ring 168 ms.

    Exchanges must start in the same order on all ranks, so none starts from a callback: a bucket's sums are sent when
    the next bucket is ready, or at once after the last.
    """

    def __init__(self, group: dist.ProcessGroup, exchanges: Exchanges) -> None:
        self.group = group
        self.exchanges = exchanges
        self._scratch: dict[int, Tensor] = {}  # kept, as fresh memory costs as much time as an exchange
        self._begun: _Begun | None = None

    def reduce(self, bucket: dist.GradBucket) -> Future[Tensor]:
        """Send the ranks their parts of a bucket, and the former bucket's sums."""
        self._send_sums()
        gradients = bucket.buffer()
        self.exchanges.num_gradients += gradients.numel()
        sizes = part_sizes(gradients.numel(), self.group.size())
        scratch = self._scratch_like(gradients, bucket.index(), sizes[self.group.rank()])
        received = self._all_to_all(scratch.view(-1), gradients, sent=sizes)
        result: Future[Tensor] = Future(devices=[gradients.device] if gradients.is_cuda else None)
        self._begun = _Begun(gradients, scratch, sizes, received, result)
        if bucket.is_last():
            self._send_sums()
        return result

    def _send_sums(self) -> None:
        if self._begun is None:
            return
        begun, self._begun = self._begun, None
        begun.received.wait()
        scratch = begun.scratch
        for values in scratch[1:]:
            scratch[0] += values
        scratch[0] /= self.group.size()
        scratch[1:] = scratch[0]
        work = self._all_to_all(begun.gradients, scratch.view(-1), received=begun.sizes)
        work.get_future().add_done_callback(lambda done: _complete(begun, done))

    def _all_to_all(
        self, output: Tensor, given: Tensor, received: list[int] | None = None, sent: list[int] | None = None
    ) -> dist.Work:
        exchange = self.exchanges.begin()
        work = dist.all_to_all_single(output, given, received, sent, group=self.group, async_op=True)
        self.exchanges.end_with(exchange, work)
        return cast(dist.Work, work)

    def _scratch_like(self, gradients: Tensor, index: int, own: int) -> Tensor:
        """Return (W, c) of a bucket; buckets change after the first iteration."""
        shape = (self.group.size(), own)
        scratch = self._scratch.get(index)
        if scratch is None or scratch.shape != shape or scratch.dtype != gradients.dtype:
            scratch = self._scratch[index] = gradients.new_empty(shape)
        return scratch


def part_sizes(num_elements: int, num_parts: int) -> list[int]:
    """Share elements out as evenly as they go; parts may be empty."""
    least, longer = divmod(num_elements, num_parts)
    return [least + (part < longer) for part in range(num_parts)]


def _complete(begun: _Begun, sent: Future[Any]) -> None:
    """Hand over the bucket, or the error: DistributedDataParallel would wait for ever otherwise."""
    try:
        sent.value()
    except Exception as error:
        begun.result.set_exception(error)  # type: ignore[arg-type] # the stub is wrong
    else:
        begun.result.set_result(begun.gradients)


class TimedAllGather(DefaultAllGather):
    """FSDP2's gathering of weights, timed."""

    def __init__(self, exchanges: Exchanges) -> None:
        self.exchanges = exchanges

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        """Gather, as the class above does."""
        exchange = self.exchanges.begin()
        work = super().__call__(output_tensor, input_tensor, group, async_op)
        self.exchanges.end_with(exchange, work)
        return work


class TimedReduceScatter(DefaultReduceScatter):
    """FSDP2's averaging of gradients, timed."""

    def __init__(self, exchanges: Exchanges) -> None:
        self.exchanges = exchanges

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> dist.Work | None:
        """Average, as the class above does."""
        exchange = self.exchanges.begin()
        work = super().__call__(output_tensor, input_tensor, group, op, async_op)
        self.exchanges.end_with(exchange, work)
        return work
