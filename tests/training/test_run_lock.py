"""Other runs are processes here: a process is never kept out by itself."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from arl_lightning.distributed.slurm import host_name
from arl_lightning.errors import UserError
from arl_lightning.training import run_lock
from arl_lightning.training.run_lock import LOCK, own

# What `own` does, without what it takes to import it.
HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.truncate(0)
file.write(sys.argv[2])
file.flush()
print("locked", flush=True)
time.sleep(120)
"""


@contextmanager
def held(folder: Path, host: str, job: str | None = None, restarts: int = 0) -> Iterator[subprocess.Popen]:
    """Let another process hold a folder."""
    owner = json.dumps({"job": job, "restarts": restarts, "host": host, "pid": 4242})
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, folder / LOCK, owner], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def _outside_of_a_job(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def test_a_folder_where_another_process_trains_is_refused_at_once_and_its_holder_named(tmp_path):
    with held(tmp_path / "run", host_name(), job="12"):
        began = time.monotonic()
        with pytest.raises(UserError) as refused:
            own(tmp_path / "run")
        assert time.monotonic() - began < 10
    assert str(refused.value) == (
        f"{tmp_path}/run: job 12, process 4242 on {host_name()} trains here; wait for its end or choose another"
        f" --run.folder (if it is gone, remove {tmp_path}/run/.lock)"
    )


def test_the_lock_goes_with_its_process_though_that_is_killed(tmp_path):
    with held(tmp_path, host_name()) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        own(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text()) == {
        **{"job": None, "restarts": 0, "host": host_name(), "pid": os.getpid()},
    }


def test_another_host_s_lock_is_waited_for_as_that_may_be_gone(tmp_path):
    with held(tmp_path, "gpu07") as process:
        with pytest.raises(UserError, match="process 4242 on gpu07 trains here"):
            own(tmp_path, lease_seconds=0.1)
        with mock.patch.object(run_lock.time, "sleep", side_effect=lambda _: (process.kill(), process.wait())):
            own(tmp_path)


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_requeued_job_is_not_kept_out_by_its_former_life_but_by_a_second_step(tmp_path, monkeypatch, restarts):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    with held(tmp_path, host_name(), job="12"):
        if restarts == 0:
            with pytest.raises(UserError, match="job 12, process 4242"):
                own(tmp_path, lease_seconds=0.1)
        else:
            with pytest.warns(UserWarning, match="still locked by job 12, .* which Slurm has ended; going on"):
                own(tmp_path, lease_seconds=0.1)


def test_workers_of_a_killed_run_do_not_hold_its_lock(tmp_path):
    script = (
        "import os, sys, time; from pathlib import Path; from arl_lightning.training.run_lock import own\n"
        "own(Path(sys.argv[1]))\n"
        "if os.fork() == 0: time.sleep(60)\n"
        "print('forked', flush=True); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", script, tmp_path]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "forked\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            own(tmp_path)
        process.kill()
        process.wait()
        own(tmp_path)
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_file_system_without_locks_is_warned_of(tmp_path):
    failing = OSError(errno.ENOLCK, "No locks available")
    with (
        mock.patch.object(run_lock.fcntl, "lockf", side_effect=failing),
        pytest.warns(UserWarning, match="has no locks; let no other run use this folder"),
    ):
        own(tmp_path)
    own(tmp_path)  # once a process


def test_a_folder_that_cannot_be_locked_says_why(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(IsADirectoryError):
        own(tmp_path)
