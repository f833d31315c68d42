import os
import subprocess
import sys

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore  # registers "fake"

from arl_lightning.distributed.failures import among_ranks, in_words, is_a_peers, rank
from arl_lightning.errors import UserError

OF_A_WORKER = """Caught ValueError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "worker.py", line 375, in _worker_loop
    data = fetcher.fetch(index)
ValueError: bad pixel
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (UserError("data.shards:\n  none"), "data.shards: none"),
        (
            ValueError(OF_A_WORKER),
            "ValueError: Caught ValueError in DataLoader worker process 0. ValueError: bad pixel",
        ),
    ],
)
def test_an_error_is_one_line_without_its_traceback(error, said):
    assert in_words(error) == said


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [10.0.0.2]"),
        RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 1800000ms for recv operation"),
        dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:2027, remote process exited"),
        dist.DistNetworkError("failed to recv, got 0 bytes"),
    ],
)
def test_what_a_rank_says_when_another_is_gone(error):
    assert is_a_peers(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), TimeoutError("timed out"), ValueError("socket")],
)
def test_errors_of_its_own(error):
    assert not is_a_peers(error)


ENDING = """
import atexit, sys
from arl_lightning.cli import main

class Last:
    def __del__(self):
        sys.stderr.write("finalized ")

sys.modules["last"] = Last()
atexit.register(sys.stderr.write, "exit function ")
sys.argv = ["arl", {word!r}]
sys.exit(main())
"""


@pytest.mark.parametrize(("word", "status"), [("--version", 0), ("nothing", 2)])
@pytest.mark.parametrize(("world_size", "end"), [(1, "exit function finalized "), (2, "exit function ")])
def test_a_rank_among_several_leaves_after_its_exit_functions(word, status, world_size, end):
    program = [sys.executable, "-c", ENDING.format(word=word)]
    environment = {**os.environ, "WORLD_SIZE": str(world_size)}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stderr.endswith(end)
    assert bool(done.stdout) == (status == 0)


def test_a_rank_knows_that_it_is_one_when_its_environment_says_no_more(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)  # as Lightning does once it has trained
    assert not among_ranks()
    dist.init_process_group("fake", rank=3, world_size=4, store=FakeStore())
    try:
        assert among_ranks()
        assert rank() == 3
    finally:
        dist.destroy_process_group()
