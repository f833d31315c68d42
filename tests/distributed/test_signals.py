"""Each in a process of its own: signals belong to all of a process's threads."""

import signal
import subprocess
import sys
import textwrap

import pytest

HOLD = "import os, signal, subprocess, sys, time\nfrom arl_lightning.distributed import signals\n"


def run(code: str, *before: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*before, sys.executable, "-c", HOLD + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_is_a_flag_until_the_process_has_ended(number):
    done = run(f"""
        signals.hold()
        assert signals.received() is None
        os.kill(os.getpid(), {int(number)})
        time.sleep(0.1)
        assert signals.received() is signals.received() is signal.Signals({int(number)})
        class Late:
            def __del__(self): os.kill(os.getpid(), {int(number)})
        sys.late = Late()  # goes when the interpreter shuts down, and python's handlers are gone
        print("done", flush=True)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_signal_that_was_blocked_before_python_started_is_not_lost():
    done = run(
        "os.kill(os.getpid(), signal.SIGUSR1); signals.hold(); print(signals.received().name)",
        "env",
        "--block-signal=USR1",
        "--block-signal=TERM",
    )
    assert (done.returncode, done.stdout) == (0, "SIGUSR1\n")


def test_sigterm_goes_before_sigusr1():
    code = "signals.hold(); [os.kill(os.getpid(), n) for n in (15, 10)]; print(signals.received().name)"
    assert run(code).stdout == "SIGTERM\n"


def test_threads_that_did_not_block_it_change_nothing():
    done = run("""
        import threading
        stay = threading.Event()
        threading.Thread(target=stay.wait).start()
        signals.hold()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        print(signals.received().name)
        stay.set()
    """)
    assert (done.returncode, done.stdout) == (0, "SIGTERM\n")


def test_programs_that_are_started_are_spared():
    done = run("""
        signals.hold()
        child = subprocess.Popen(["sleep", "0.5"])
        child.send_signal(signal.SIGUSR1)
        child.send_signal(signal.SIGTERM)
        print(child.wait())
    """)
    assert done.stdout == "0\n"


def test_what_was_there_before_comes_back():
    done = run("""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signals.hold() and not signals.hold()
        os.kill(os.getpid(), signal.SIGUSR1)
        signals.release()
        assert signals.received() is None
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
        os.kill(os.getpid(), signal.SIGUSR1)
    """)
    assert done.returncode == -signal.SIGUSR1, done.stderr


WORKERS = """
    signals.hold()
    import multiprocessing
    from torch.utils.data import DataLoader, IterableDataset

    class Data(IterableDataset):
        def __iter__(self):
            yield from range(4)
            time.sleep(STUCK)
            yield from range(4)

    batches = iter(DataLoader(Data(), batch_size=None, num_workers=2))
    seen = [next(batches) for _ in range(3)]
    workers = multiprocessing.active_children()
"""


def test_loader_workers_let_a_signal_to_all_of_a_job_pass():
    # A worker that SIGTERM ends makes torch raise in the middle of a step.
    done = run(
        WORKERS.replace("STUCK", "1")
        + """
    for number in (signal.SIGUSR1, signal.SIGTERM):
        subprocess.run(["sh", "-c", f"kill -{int(number)} {' '.join(str(worker.pid) for worker in workers)}"])
    time.sleep(0.3)
    assert [worker.is_alive() for worker in workers] == [True, True]
    print(len(seen + list(batches)))
    """
    )
    assert (done.returncode, done.stdout) == (0, "16\n"), done.stderr


def test_torch_can_still_end_its_workers():
    done = run(
        WORKERS.replace("STUCK", "1000")
        + """
    seen += [next(batches) for _ in range(5)]
    started = time.monotonic()
    import torch
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5  # seconds before it sends SIGTERM
    del batches
    print(time.monotonic() - started < 20, [worker.exitcode for worker in workers])
    """
    )
    assert (done.returncode, done.stdout) == (0, "True [0, 0]\n"), done.stderr
