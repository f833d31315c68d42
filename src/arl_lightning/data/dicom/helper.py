"""Decodes frames in a process of its own, for decoders that end their process over a damaged frame.

One helper for each process that reads, started when it is first needed, kept, and started again when it has ended.
"""

import atexit
import errno
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import BinaryIO, cast

import numpy as np

from arl_lightning.data.dicom import decoding
from arl_lightning.data.dicom.deidentify import KEY_VARIABLE
from arl_lightning.data.media import UnreadableError

TIME_LIMIT = 60.0  # seconds for a frame, of which a decoder needs less than one
ENDS = "ends its decoder"
HANGS = "does not decode within a minute"


class Helper:
    """A process that decodes; it is given neither the key nor any path."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.lock = threading.Lock()
        # The key stays here: what decodes what anybody may have written must not know it.
        environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
        self._process = subprocess.Popen(
            [sys.executable, "-m", decoding.__name__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip

    @property
    def is_alive(self) -> bool:
        """Whether it runs, and was started by this process: a fork must not share it."""
        return self.owner == os.getpid() and self._process.poll() is None

    def decode(self, encoded: bytes, request: decoding.Request) -> np.ndarray:
        """Decode a frame.

        Raises:
            UnreadableError: If the frame cannot be decoded, or ends the process or stops it.
            OSError: If the process was killed, as a machine without memory does.
        """
        slow = threading.Event()
        timer = threading.Timer(TIME_LIMIT, self._stop, [slow])
        timer.start()
        try:
            decoding.send(cast(BinaryIO, self._process.stdin), request, encoded)
            head, content = decoding.receive(cast(BinaryIO, self._process.stdout))
        except (EOFError, BrokenPipeError):
            code = self._process.wait()
            self.close()
            if code == -signal.SIGKILL and not slow.is_set():
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
            raise UnreadableError(HANGS if slow.is_set() else ENDS) from None
        finally:
            timer.cancel()
        return _checked(head, content, request)

    def _stop(self, slow: threading.Event) -> None:
        slow.set()
        self._process.kill()

    def close(self) -> None:
        """End it."""
        if self.owner != os.getpid():
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):  # of a request that it has not read
                cast(BinaryIO, pipe).close()


_helper: Helper | None = None
_starting = threading.Lock()


def decode_apart(encoded: bytes, request: decoding.Request) -> np.ndarray:
    """Return a frame's pixels, (H, W) or (H, W, 3), as `decoding.decode_frame`.

    Raises:
        UnreadableError: If it cannot be decoded.
    """
    global _helper
    with _starting:
        if _helper is None or not _helper.is_alive:
            _helper = Helper()
        helper = _helper
    with helper.lock:
        return helper.decode(encoded, request)


@atexit.register
def _close() -> None:
    if _helper is not None:
        _helper.close()


def _checked(head: dict[str, object], content: bytes, request: decoding.Request) -> np.ndarray:
    """Believe a process that a frame may have damaged no further than the frame's size."""
    error = str(head.get("error", ""))
    if error:
        raise UnreadableError(f"cannot be decoded ({error if error.isidentifier() else 'unknown'})")
    options = request.options
    samples = options["samples_per_pixel"]
    shape = (options["rows"], options["columns"], *([samples] if samples > 1 else []))
    dtype = np.dtype(f"{'i' if options['pixel_representation'] else 'u'}{options['bits_allocated'] // 8}")
    if len(content) != int(np.prod(shape)) * dtype.itemsize:
        raise UnreadableError("cannot be decoded (another size)")
    return np.frombuffer(content, dtype).reshape(shape)
