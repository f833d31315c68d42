"""A local copy of every shard that is read."""

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.stream.storage import BLOCK, ByteStream, Shard, ShardError, open_stream
from arl_lightning.errors import UserError

# A copy in the making that is older was left by a process that was killed.
STALE_SECONDS = 24 * 3600.0
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Cache:
    """Copies each shard to a local folder when it is first used; in the end the folder holds the whole corpus.

    A copy is named by its checksum, so processes, runs and corpora may share the folder.

    Args:
        folder: The local folder.
    """

    folder: Path

    def prepare(self, shards: Sequence[Shard]) -> None:
        """Make the folder, and see that the shards will fit.

        Raises:
            UserError: If it cannot be made, or has too little space.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._drop_stale()
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise UserError(
                f"data.cache_folder: {self.folder}: cannot be used ({error.strerror}); choose another"
            ) from error
        needed = sum(shard.num_bytes for shard in shards if not self.holds(shard))
        if needed > free:
            raise UserError(
                f"data.cache_folder: {self.folder}: {free / 1e9:.2f} GB are free and {needed / 1e9:.2f} GB of shards"
                " are still to be copied; make room, choose another folder, or leave the option out"
            )

    def holds(self, shard: Shard) -> bool:
        """Return whether a shard is there at its full size."""
        try:
            return self.place(shard).stat().st_size == shard.num_bytes
        except FileNotFoundError:
            return False

    def place(self, shard: Shard) -> Path:
        """Return the copy's path."""
        return self.folder / f"{shard.sha256}.tar"

    def open(self, shard: Shard) -> ByteStream:
        """Open a shard's copy, after making it where that is missing or has another size.

        Raises:
            OSError, ShardError: If the shard cannot be read, or is not what the manifest says.
        """
        if not self.holds(shard):
            try:
                self._copy(shard)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                return open_stream(shard.url)  # others have filled the disk since: slow is better than stopped
        return open_stream(str(self.place(shard)))

    def discard(self, shard: Shard) -> None:
        """Drop the copy of a shard that turned out to be damaged."""
        self.place(shard).unlink(missing_ok=True)

    def _copy(self, shard: Shard) -> None:
        """Copy beside the place and rename: whoever is first, the content is the same."""
        part = self.folder / f"{shard.sha256}.{os.getpid()}-{secrets.token_hex(4)}.part"
        digest = hashlib.sha256()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with open_stream(shard.url) as stream, part.open("wb") as copy:
                while block := stream.read(BLOCK):
                    digest.update(block)
                    copy.write(block)
                reason = stream.reason_for_end()
            if digest.hexdigest() != shard.sha256:
                raise ShardError(reason or "its checksum is not the manifest's")
            part.replace(self.place(shard))
        finally:
            part.unlink(missing_ok=True)

    def _drop_stale(self) -> None:
        for part in self.folder.glob("*.part"):
            try:
                old = time.time() - part.stat().st_mtime > STALE_SECONDS
            except FileNotFoundError:  # another process has just renamed it
                continue
            if old:
                part.unlink(missing_ok=True)
