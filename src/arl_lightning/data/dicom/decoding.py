"""Decodes one compressed frame, here or in another process.

The program `python -m arl_lightning.data.dicom.decoding` is that process: it takes frames from its standard input and
gives pixels to its standard output until the input ends, as it does when whoever started it ends or is killed.
"""

import json
import os
import signal
import struct
import sys
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from arl_lightning.data.dicom.header import quiet_pydicom


class Request(NamedTuple):
    """How a frame is decoded: transfer syntax, pydicom's plugin, whether colours stay as stored, pydicom's options."""

    syntax: str
    plugin: str
    raw: bool
    options: dict[str, Any]


def decode_frame(encoded: bytes, request: Request) -> np.ndarray:
    """Return a frame's pixels, (H, W) or (H, W, 3)."""
    item = struct.Struct("<HHL")
    empty_table = item.pack(0xFFFE, 0xE000, 0)
    buffer = empty_table + item.pack(0xFFFE, 0xE000, len(encoded)) + encoded
    options: Any = {**request.options, "number_of_frames": 1, "extended_offsets": ([0], [len(encoded)])}
    with quiet_pydicom():
        pixels, _ = get_decoder(UID(request.syntax)).as_array(
            buffer, index=0, raw=request.raw, decoding_plugin=request.plugin, **options
        )
    return pixels


def send(stream: BinaryIO, head: Any, content: bytes) -> None:
    """Write a message: its head as JSON, and bytes."""
    told = json.dumps(head).encode()
    stream.write(struct.pack("<QQ", len(told), len(content)) + told)
    stream.write(content)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[Any, bytes]:
    """Read a message.

    Raises:
        EOFError: If the other side has ended.
    """
    told, content = struct.unpack("<QQ", _exactly(stream, 16))
    return json.loads(_exactly(stream, told)), _exactly(stream, content)


def _exactly(stream: BinaryIO, num_bytes: int) -> bytes:
    content = stream.read(num_bytes)
    if len(content) < num_bytes:
        raise EOFError
    return content


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    while True:
        try:
            head, encoded = receive(requests)
        except EOFError:
            return
        try:
            pixels = decode_frame(encoded, Request(*head))
        except Exception as error:
            send(replies, {"error": type(error).__name__}, b"")
        else:
            send(replies, {"shape": pixels.shape, "dtype": pixels.dtype.str}, pixels.tobytes())


def main() -> None:
    """Serve the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process is told, and its end is this one's
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # decoders of C++ write remarks there
    _serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
