"""SIGUSR1 and SIGTERM as flags that a training run looks at between two steps; needs no torch.

Both stay blocked, so that the kernel keeps the flag: no moment of the process's life is different from another, no
system call is interrupted, and programs that it starts (compilers, git, scontrol) are spared too, as they inherit the
blocking. A handler sets the same flag where a thread of somebody else's, or a library, has not blocked them.

Slurm sends a signal to every process of a step. A forked DataLoader worker therefore lets both pass, but for a SIGTERM
of its parent's.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any

STOPPING = (signal.SIGUSR1, signal.SIGTERM)
SIGNALLED = 128  # a shell's status of a command that a signal ended is this and the signal's number


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """Training ended on a signal, all in order; the message is for the user.

    Args:
        message: What was saved where, and how it goes on.
        number: The signal.
    """

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.status = SIGNALLED + number


_received: set[int] = set()
_before: dict[int, Any] = {}  # handlers that were there when `hold` began
_hooked = False


def hold() -> bool:
    """Let both signals only set a flag from here on; returns whether they did not before."""
    global _hooked
    if _before or threading.current_thread() is not threading.main_thread():
        return False
    for number in STOPPING:
        _before[number] = signal.signal(number, _note)
        signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    if not _hooked:
        os.register_at_fork(after_in_child=_spare_worker)
        _hooked = True
    return True


def release() -> None:
    """Put back what was there before `hold`, and forget what came."""
    received()
    for number, handler in _before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _before.clear()
    _received.clear()
    let_through()


def let_through() -> None:
    """Unblock both signals: a job script starts every command with them blocked, which only training understands."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def received() -> signal.Signals | None:
    """Return the signal that has come since `hold`, SIGTERM where both have."""
    while (info := signal.sigtimedwait(STOPPING, 0)) is not None:
        _received.add(info.si_signo)
    return signal.Signals(max(_received)) if _received else None


def _note(number: int, frame: FrameType | None) -> None:
    _received.add(number)


def _spare_worker() -> None:
    """In a forked child, ignore SIGUSR1, and leave SIGTERM to a thread that asks who sent it."""
    if not _before:
        return
    _before.clear()
    _received.clear()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_by, args=(os.getppid(),), daemon=True).start()


def _end_by(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        continue
    os._exit(0)  # torch takes any other status, once its parent asks a worker to end, for a crash
