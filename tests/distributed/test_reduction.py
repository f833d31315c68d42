"""What gradients are averaged to on three ranks: the same bits however they are packed, or not.

Three, because the sum of two numbers has the same bits either way round.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from several_ranks import spawn
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from arl_lightning.distributed.exchanges import Exchange, Exchanges
from arl_lightning.distributed.reduction import part_sizes, register, time_sharded

WORLD_SIZE = 3
SIZES = (1, 2, 7, 1001, 64, 5, 300)  # buckets of fewer elements than ranks, and not divisible by them
KILOBYTE = 1 / 1024  # in megabytes

# Bucket size in megabytes, order in which gradients become ready, type.
PACKINGS: dict[str, tuple[float, tuple[int, ...]]] = {
    "one bucket": (25, (0, 1, 2, 3, 4, 5, 6)),
    "another order": (25, (3, 6, 0, 5, 1, 4, 2)),
    "small buckets": (KILOBYTE, (6, 5, 4, 3, 2, 1, 0)),
    "a bucket each": (1e-6, (2, 0, 1, 3, 6, 5, 4)),
}
TYPES = (torch.float32, torch.float64, torch.bfloat16)


class Weighted(nn.Module):
    """Parameters whose gradients are given: the loss is their product with those."""

    def __init__(self, dtype: torch.dtype, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(SIZES[i], dtype=dtype)) for i in order])

    def forward(self, gradients: list[Tensor]) -> Tensor:
        return sum((w * gradients[i]).sum() for i, w in zip(self.order, self.weights, strict=True))


def gradients_of(rank: int, dtype: torch.dtype) -> list[Tensor]:
    """Draw numbers of very different sizes, whose sums depend on the order."""
    generator = torch.Generator().manual_seed(rank)

    def draw(num_elements: int) -> Tensor:
        signed, size = torch.randn(2, num_elements, dtype=torch.float64, generator=generator)
        return (signed * 10**size).to(dtype)

    return [draw(num_elements) for num_elements in SIZES]


def mean_in_order(dtype: torch.dtype) -> list[Tensor]:
    ranks = [gradients_of(rank, dtype) for rank in range(WORLD_SIZE)]
    return [(a + b + c) / WORLD_SIZE for a, b, c in zip(*ranks, strict=True)]


def averaged(packing: str, dtype: torch.dtype, ordered: bool, rank: int) -> list[list[Tensor]]:
    """Return the gradients of the first iteration, and of the third, whose buckets are other ones."""
    megabytes, order = PACKINGS[packing]
    network = DistributedDataParallel(Weighted(dtype, order), bucket_cap_mb=megabytes)
    exchanges = Exchanges()
    register(network, exchanges, ordered)
    results = []
    for _ in range(3):
        network.zero_grad()
        network(gradients_of(rank, dtype)).backward()
        by_place = dict(zip(order, network.module.weights, strict=True))
        results.append([by_place[i].grad.clone() for i in range(len(SIZES))])
    assert exchanges.num_gradients == 3 * sum(SIZES)
    return [results[0], results[2]]


class Layers(nn.Module):
    """Layers that are not used in the order in which they are defined."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(24, 24) for _ in range(4)])

    def forward(self, images: Tensor) -> Tensor:
        for layer in (self.layers[2], self.layers[0], self.layers[3], self.layers[1]):
            images = torch.tanh(layer(images)) + images
        return images.square().mean()


Wrap = Callable[[Layers], nn.Module]


def trained(wrap: Wrap, rank: int, resume_after: int | None, num_steps: int = 4) -> Tensor:
    """Train with momentum; a resumed run goes on with another wrapper in the middle, as a new process would."""
    torch.manual_seed(0)
    bare = Layers()
    network = wrap(bare)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for step in range(num_steps):
        if step == resume_after:
            state = {name: whole(value) for name, value in bare.state_dict().items()}
            bare = Layers()
            bare.load_state_dict(state)
            network = wrap(bare)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        optimizer.zero_grad()
        images = torch.randn(8, 24, generator=torch.Generator().manual_seed(100 * step + rank))
        network(images).backward()
        optimizer.step()
    return torch.cat([whole(parameter).flatten() for parameter in bare.state_dict().values()])


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def replicated(ordered: bool) -> Wrap:
    def wrap(network: Layers) -> nn.Module:
        wrapped = DistributedDataParallel(network, bucket_cap_mb=3 * KILOBYTE)
        register(wrapped, Exchanges(), ordered)
        return wrapped

    return wrap


def sharded(exchanges: Exchanges) -> Wrap:
    def wrap(network: Layers) -> nn.Module:
        mesh = init_device_mesh("cpu", (WORLD_SIZE,))
        for layer in network.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(network, mesh=mesh)
        time_sharded(network, exchanges)
        return network

    return wrap


def late_rank(rank: int) -> dict[str, float]:
    """Measure an exchange that has to wait for one rank, and the whole iteration."""
    network = DistributedDataParallel(Weighted(torch.float32, PACKINGS["one bucket"][1]))
    exchanges = Exchanges()
    register(network, exchanges, ordered_sum=True)
    loss = network(gradients_of(rank, torch.float32))
    dist.barrier()
    started = time.perf_counter()
    time.sleep(0.5 if rank == 2 else 0.0)
    loss.backward()
    return {"exchange": exchanges.take(), "iteration": time.perf_counter() - started, "again": exchanges.take()}


def run_rank(rank: int) -> dict[str, Any]:
    dist.init_process_group("gloo", rank=rank, world_size=WORLD_SIZE)
    exchanges = Exchanges()
    return {
        "averaged": {
            (packing, str(dtype), ordered): averaged(packing, dtype, ordered, rank)
            for packing in PACKINGS
            for dtype in TYPES
            for ordered in (True, False)
        },
        "trained": {
            (name, resume_after): trained(wrap, rank, resume_after)
            for name, wrap in {
                "ordered": replicated(True),
                "ring": replicated(False),
                "sharded": sharded(exchanges),
            }.items()
            for resume_after in (None, 2)
        },
        "sharded seconds": exchanges.take(),
        "late": late_rank(rank),
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    return spawn(run_rank, WORLD_SIZE, tmp_path_factory.mktemp("ranks"))


def equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(map(torch.equal, some, others))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("packing", PACKINGS)
def test_an_ordered_mean_has_the_bits_of_a_sum_in_the_order_of_ranks(ranks, packing, dtype):
    for rank in ranks:
        for iteration in rank["averaged"][packing, str(dtype), True]:
            assert equal(iteration, mean_in_order(dtype))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_bits_of_a_ring_depend_on_the_packing(ranks, dtype):
    # If this fails, the ordered sum has become superfluous with this version of torch.
    packings = [ranks[0]["averaged"][packing, str(dtype), False][0] for packing in PACKINGS]
    assert not all(equal(packings[0], other) for other in packings[1:])
    for packing in packings:
        for found, expected in zip(packing, mean_in_order(dtype), strict=True):
            assert torch.allclose(found, expected, rtol=8 * torch.finfo(dtype).eps, atol=300 * torch.finfo(dtype).eps)


def test_a_resumed_run_equals_a_straight_one_only_with_sums_in_order(ranks):
    for rank in ranks:
        runs = rank["trained"]
        assert torch.equal(runs["ordered", None], runs["ordered", 2])
        assert not torch.equal(runs["ring", None], runs["ring", 2])
        assert torch.allclose(runs["ring", None], runs["ordered", None], atol=1e-5)


def test_a_sharded_run_resumes_with_equal_bits_as_its_layout_is_fixed(ranks):
    runs = ranks[0]["trained"]
    assert torch.equal(runs["sharded", None], runs["sharded", 2])
    assert torch.allclose(runs["sharded", None], runs["ordered", None], atol=1e-5)


def test_all_ranks_end_with_the_same_bits(ranks):
    for rank in ranks[1:]:
        for name, weights in rank["trained"].items():
            assert torch.equal(weights, ranks[0]["trained"][name]), name


def test_waiting_for_a_late_rank_counts_as_exchange_once(ranks):
    for rank in ranks[:2]:
        late = rank["late"]
        assert 0.4 < late["exchange"] < late["iteration"]
        assert late["again"] == 0
        assert ranks[2]["late"]["exchange"] < late["exchange"] - 0.3


def test_exchanges_of_sharded_modules_are_timed(ranks):
    assert all(rank["sharded seconds"] > 0 for rank in ranks)


def test_parts_cover_a_bucket():
    assert part_sizes(7, 3) == [3, 2, 2]
    assert part_sizes(2, 3) == [1, 1, 0]


class FakeMark:
    """A moment of a clock that is set by hand."""

    present = 0.0

    def __init__(self) -> None:
        self.at = FakeMark.present

    def passed(self) -> bool:
        return self.at <= FakeMark.present

    def until(self, other: "FakeMark") -> float:
        return other.at - self.at


def exchange(exchanges: Exchanges, start: float, stop: float | None) -> Exchange:
    FakeMark.present = start
    begun = exchanges.begin()
    if stop is not None:
        FakeMark.present = stop
        exchanges.end(begun)
    return begun


@pytest.mark.parametrize(
    ("intervals", "seconds"),
    [
        ([(0, 1), (2, 4)], 3),
        ([(0, 3), (1, 5)], 5),
        ([(0, 8), (1, 2), (3, 9)], 9),
        ([(0, 2), (2, 3), (5, 5.5)], 3.5),
    ],
)
def test_seconds_are_those_of_the_union(intervals, seconds):
    exchanges = Exchanges(FakeMark)
    for start, stop in intervals:
        exchange(exchanges, start, stop)
    assert exchanges.take() == seconds
    assert exchanges.take() == 0


def test_an_exchange_under_way_is_counted_later_and_whole():
    exchanges = Exchanges(FakeMark)
    exchange(exchanges, 0, 1)
    slow = exchange(exchanges, 2, None)
    exchange(exchanges, 3, 4)
    assert exchanges.take() == 1
    FakeMark.present = 6
    exchanges.end(slow)
    FakeMark.present = 5  # a device that has not come so far yet
    assert exchanges.take() == 0
    FakeMark.present = 6
    assert exchanges.take() == 4
