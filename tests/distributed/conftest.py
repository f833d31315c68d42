"""Runs on several ranks, shared by the tests that look at them."""

from functools import partial
from typing import Any

import pytest


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Returns what each rank of a layout has after all of its scenarios; every layout runs once."""
    from layouts import SINGLE, spawn
    from scenarios import train_all

    known: dict[Any, list[dict[str, Any]]] = {SINGLE: [train_all(SINGLE, 0)]}

    def of(layout: Any) -> list[dict[str, Any]]:
        if layout not in known:
            known[layout] = spawn(partial(train_all, layout), layout.world_size, tmp_path_factory.mktemp("ranks"))
        return known[layout]

    return of
