"""Runs on several ranks, shared by the tests that look at them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def killed_at_renaming(monkeypatch) -> Callable[[int], AbstractContextManager[list[Path]]]:
    """Returns what stops at the renaming after so many; it gives the paths whose renaming was not reached."""

    @contextmanager
    def killed_at(number: int) -> Iterator[list[Path]]:
        rename, done, killed = Path.rename, [], []

        def rename_or_die(path: Path, target: Path) -> Path:
            if len(done) == number:
                killed.append(path)
                raise KeyboardInterrupt
            done.append(path)
            return rename(path, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", rename_or_die)
            try:
                yield killed
            except KeyboardInterrupt:
                assert killed

    return killed_at


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
