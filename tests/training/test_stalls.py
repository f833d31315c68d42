"""A watchdog of one rank that would end the process is watched."""

import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed import TCPStore

from arl_lightning.distributed import watchdog
from arl_lightning.distributed.saving import Saving
from arl_lightning.distributed.watchdog import Watchdog
from arl_lightning.errors import UserError
from arl_lightning.training.checkpoints import RunCheckpoints
from arl_lightning.training.stalls import StallGuard, patient

SECONDS = 0.3  # that a step may take


@pytest.fixture
def guarded(monkeypatch):
    """A trainer whose rank may stand still for SECONDS, and the statuses with which it would have ended."""
    ended: list[int] = []
    monkeypatch.setattr(watchdog, "leave", ended.append)
    monkeypatch.setattr(watchdog.faulthandler, "dump_traceback", lambda **_: None)
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 0.1)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    guard = StallGuard(SECONDS, beat_seconds=0.05)
    guard._watchdog = Watchdog(0, 1, "127.0.0.1", store.port, SECONDS, guard.beat_seconds)
    guard._watchdog.start()
    yield SimpleNamespace(callbacks=[guard], global_step=7), ended
    guard._watchdog.stop()


def test_a_run_that_waits_for_its_own_slow_save_is_no_stall_and_one_that_stands_after_it_is(guarded, tmp_path):
    trainer, ended = guarded
    future: Future[None] = Future()
    checkpoints = RunCheckpoints(tmp_path, 1, 1)
    checkpoints._saving = Saving(tmp_path / "step-0000006.ckpt", future)
    threading.Timer(5 * SECONDS, future.set_result, [None]).start()
    checkpoints._finish(trainer)
    assert ended == []
    time.sleep(5 * SECONDS)
    assert ended


def test_patience_has_an_end(guarded):
    trainer, ended = guarded
    with patient(trainer, "waiting", 2 * SECONDS):
        assert trainer.callbacks[0]._watchdog.record.doing == "waiting"
        time.sleep(7 * SECONDS)
    assert ended


def test_a_failed_save_that_was_waited_for_is_told(tmp_path):
    checkpoints = RunCheckpoints(tmp_path, 1, 1)
    future: Future[None] = Future()
    future.set_exception(OSError(28, "No space left on device"))
    checkpoints._saving = Saving(Path(tmp_path / "step-0000006.ckpt"), future)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); there is no earlier one"):
        checkpoints._finish(SimpleNamespace(callbacks=[], global_step=7))
