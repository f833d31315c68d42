"""Where shards lie: local folders, NFS and Lustre among them, web servers, object storage or any command's output.

A stream is read forwards. A local one passes over what is not needed by seeking, any other one by reading it.

webdataset, which brings torch with it, is imported for addresses alone: what only counts samples stays light.
"""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from arl_lightning.data.shards.manifest import FILE_NAME, Manifest
from arl_lightning.data.shards.tars import HEADER_BUFFER
from arl_lightning.errors import UserError

BLOCK = 1 << 20
PIPE = "pipe:"
NAME = "{}"  # stands for a file's name in a command
# Seconds before each further attempt at a manifest: all ranks ask for it at once, and Slurm sends signals to the
# commands of ranks too, among which a shell clears the blocking that it inherits.
WAITS = (0.5, 1.0)


class ShardError(Exception):
    """A shard that cannot be read at present, with the reason in a few words."""


@dataclass(frozen=True)
class Shard:
    """A shard and what the manifest says of it.

    Attributes:
        url: Its file, or what `open_stream` reads it from.
    """

    url: str
    num_samples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Folder:
    """A folder of packed shards.

    Args:
        address: A local path; `http://`, `https://`, `s3://`, `gs://` or another scheme of webdataset with the
            folder's path; or `pipe:` and a shell command that prints a file, with `{}` for the file's name.

    Raises:
        UserError: If the scheme is unknown, or the command does not say where the name goes.
    """

    address: str

    def __post_init__(self) -> None:
        scheme = self.address.partition(":")[0]
        if self.address.startswith(PIPE):
            if NAME not in self.address:
                raise UserError(f"data.shards: '{self.address}' needs {NAME} where the file's name goes")
        elif not self.is_local and scheme not in (schemes := {*_fetchable(), "s3"}):
            known = ", ".join(sorted(schemes - {"__default__", "pipe"}))
            raise UserError(
                f"data.shards: '{self.address}': unknown scheme; use a folder, pipe:COMMAND, or one of {known}"
            )

    @property
    def is_local(self) -> bool:
        """Whether it is a path."""
        return is_local(self.address)

    def url(self, name: str) -> str:
        """Return what `open_stream` reads a file of this name from."""
        if self.address.startswith(PIPE):
            return self.address.replace(NAME, shlex.quote(name))
        return str(Path(self.address) / name) if self.is_local else f"{self.address.rstrip('/')}/{name}"

    def manifest(self) -> Manifest:
        """Read the manifest, of an address several times if need be.

        Raises:
            UserError: If it cannot be reached, or is not one of ours.
        """
        if self.is_local:
            return Manifest.load(Path(self.address))
        url = self.url(FILE_NAME)
        try:
            text = _patiently(url)
        except (OSError, ShardError) as error:
            raise UserError(
                f"{url}: cannot be read ({reason_of(error)}); see that the address is right and that this machine may"
                " read it"
            ) from error
        return Manifest.parse(text, url)


def _patiently(url: str) -> str:
    for wait in WAITS:
        try:
            return _text(url)
        except (OSError, ShardError):
            time.sleep(wait)
    return _text(url)


def _text(url: str) -> str:
    with open_stream(url) as stream:
        text = b"".join(iter(lambda: stream.read(BLOCK), b"")).decode(errors="replace")
        if reason := stream.reason_for_end():
            raise ShardError(reason)
        return text


def is_local(url: str) -> bool:
    """Return whether this is a path, and not the address of something to be fetched."""
    return not url.startswith(PIPE) and "://" not in url


class ByteStream:
    """A file or a command's output, read forwards. Use it as a context manager.

    Args:
        file: Binary, opened at its start.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._process = getattr(file, "proc", None)  # of webdataset's Pipe
        self._offset = 0  # of a command's output, which cannot seek
        self._ended = False
        if self._process is not None:
            file.ignore_errors = True  # `reason_for_end` judges the status, and only where too little came

    def __enter__(self) -> "ByteStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, fewer at the end."""
        content = self._file.read(size)
        self._offset += len(content)
        self._ended |= len(content) < size
        return content

    def seek(self, offset: int, /) -> int:
        """Go forward to an absolute place."""
        if self._process is None:
            return self._file.seek(offset)
        while self._offset < offset and not self._ended:
            self.read(min(BLOCK, offset - self._offset))
        return self._offset

    def reason_for_end(self) -> str:
        """Return why a stream has ended, where it is a command's that failed; else nothing."""
        status = self._process.wait() if self._process is not None and self._ended else 0
        return f"the command ended with status {status}" if status else ""

    def close(self) -> None:
        """Close, and stop a command that is still writing."""
        if self._process is not None:
            self._process.kill()
        self._file.close()


def open_stream(url: str) -> ByteStream:
    """Open a local file or fetch a remote one.

    Raises:
        OSError: If that fails.
    """
    if is_local(url):
        return ByteStream(Path(url).open("rb", buffering=HEADER_BUFFER))
    if url.startswith("s3://") and "s3" not in _fetchable():
        url = f"{PIPE}aws s3 cp {shlex.quote(url)} -"
    from webdataset.gopen import gopen

    return ByteStream(gopen(url, "rb"))


def _fetchable() -> set[str]:
    """Return the schemes of addresses that webdataset opens."""
    from webdataset.gopen import gopen_schemes

    return set(gopen_schemes)


def reason_of(error: Exception) -> str:
    """Say in a few words why something cannot be read."""
    return str(getattr(error, "strerror", None) or error)
