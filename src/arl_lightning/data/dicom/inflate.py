"""Inflates deflated objects, no further than to the end of the pixels that their headers state."""

import tempfile
import zlib
from typing import BinaryIO, cast

from arl_lightning.data.media import UnreadableError

IN_MEMORY = 2**26  # a larger object is inflated into an unnamed temporary file
READ_BYTES = 2**20


class Inflated:
    """What a deflate stream holds, inflated on demand; `file` holds as much of it as was asked for.

    Args:
        stream: A file that stands at the begin of the stream.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._num_bytes = 0
        self.file = cast(BinaryIO, tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115 - closed on exit

    def __enter__(self) -> "Inflated":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @property
    def is_whole(self) -> bool:
        """Whether all of the stream is inflated."""
        return self._inflater.eof

    def inflate(self, num_bytes: int) -> None:
        """Inflate until `file` holds this many bytes, or all.

        Raises:
            UnreadableError: If the stream is damaged, or ends before both.
        """
        self.file.seek(self._num_bytes)
        while self._num_bytes < num_bytes and not self.is_whole:
            piece = self._inflater.unconsumed_tail or self._stream.read(READ_BYTES)
            if not piece:
                raise UnreadableError("truncated")
            try:
                inflated = self._inflater.decompress(piece, min(READ_BYTES, num_bytes - self._num_bytes))
            except zlib.error:
                raise UnreadableError("damaged deflate stream") from None
            self._num_bytes += self.file.write(inflated)
