"""Finds a shard's members by their headers: where the bytes of each lie, without reading them.

A shard is a plain POSIX tar as webdataset writes it: regular files alone, `<key>.<extension>`, one sample's side by
side, two empty blocks at the end. Anything else is damage. A header takes about 7 us, and nothing between two headers
is read unless the caller reads it.
"""

import struct
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import BinaryIO, NamedTuple, Protocol

BLOCK = 512  # bytes; headers and contents start at multiples of it
IMAGE_EXTENSIONS = ("jpg", "png")
RECORD_EXTENSION = "json"
# Bytes of a small buffered read: one takes in a record, the header before it and the header behind it.
HEADER_BUFFER = 4096

_EMPTY = bytes(BLOCK)
_REGULAR = (b"0", b"\0")
_FIELDS = struct.Struct("100s24x12s12x8s1s100x6s2x80x155s12x")  # name, size, checksum, type, magic, prefix


class TarDamageError(ValueError):
    """A tar that breaks off or is none of ours; carries the short reason with the place."""


class Reader(Protocol):
    """What is needed of a file: `seek` only ever goes forward, so a stream can offer it by reading on."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, fewer at the end of the file."""
        ...

    def seek(self, offset: int, /) -> int:
        """Go to an absolute place."""
        ...


class Member(NamedTuple):
    """One file in a tar.

    Attributes:
        key: Its name up to the first dot; the same for all files of a sample.
        extension: Its name behind that dot.
        offset: Where its content starts, in bytes from the tar's start.
        size: Of its content, in bytes.
    """

    key: str
    extension: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header starts."""
        return self.offset + self.size + -self.size % BLOCK


class Extent(NamedTuple):
    """A run of bytes in a file."""

    offset: int
    size: int

    def read(self, file: BinaryIO) -> bytes:
        """Return the bytes.

        Raises:
            TarDamageError: If the file ends before.
        """
        file.seek(self.offset)
        content = file.read(self.size)
        if len(content) < self.size:
            raise TarDamageError(f"ends at byte {self.offset + len(content)}, within a member")
        return content


class Entry(NamedTuple):
    """Where one sample lies in a tar.

    Attributes:
        key: The sample's key.
        image_format: `jpg` or `png`, the image's extension.
        image: The encoded image's bytes.
        record: The json record's bytes.
    """

    key: str
    image_format: str
    image: Extent
    record: Extent


def walk_members(file: Reader) -> Iterator[Member]:
    """Yield the members from the tar's start on.

    When a member is yielded, the file stands at its content: the caller may read it, a part of it, or nothing. A file
    that stands elsewhere afterwards is moved to the next header.

    Raises:
        TarDamageError: At a header that is damaged or missing, or a member that is no regular file.
    """
    offset = 0
    while True:
        file.seek(offset)
        header = file.read(BLOCK)
        if header == _EMPTY:
            if file.read(BLOCK) != _EMPTY:
                raise TarDamageError(f"no second empty block at byte {offset + BLOCK}; the end is damaged")
            return
        member = _parse(header, offset)
        yield member
        offset = member.end


def walk_entries(file: Reader) -> Iterator[Entry]:
    """Yield where each sample's image and record lie, in the order of the tar.

    Raises:
        TarDamageError: As `walk_members`, or if a sample is not one image and one record.
    """
    for key, group in groupby(walk_members(file), key=attrgetter("key")):
        members = list(group)
        if fault := members_fault([member.extension for member in members]):
            raise TarDamageError(f"sample {key}: {fault}")
        image, record = sorted(members, key=lambda member: member.extension == RECORD_EXTENSION)
        yield Entry(key, image.extension, Extent(image.offset, image.size), Extent(record.offset, record.size))


def members_fault(extensions: Sequence[str]) -> str | None:
    """Return why files with these extensions are not one sample, or None if they are: an image and a record."""
    strange = sorted(set(extensions) - {*IMAGE_EXTENSIONS, RECORD_EXTENSION})
    if strange:
        return f"holds a .{strange[0]} file, neither image nor record"
    num_records = extensions.count(RECORD_EXTENSION)
    num_images = len(extensions) - num_records
    return None if num_images == num_records == 1 else f"{num_images} images and {num_records} records, not one of each"


def _parse(header: bytes, offset: int) -> Member:
    if len(header) < BLOCK:
        raise TarDamageError(f"ends at or before byte {offset + len(header)}, where a header or the end should follow")
    name, size, checksum, kind, magic, prefix = _FIELDS.unpack(header)
    # The sum counts its own field as eight spaces.
    if magic[:5] != b"ustar" or _octal(checksum) != sum(header) - sum(checksum) + 8 * ord(" "):
        raise TarDamageError(f"damaged header at byte {offset}")
    if kind not in _REGULAR:
        raise TarDamageError(f"member at byte {offset} is no regular file (type {kind.decode('latin-1')!r})")
    path = _text(prefix) + "/" + _text(name) if prefix[0] and magic[5:] == b"\0" else _text(name)
    folder, slash, base = path.rpartition("/")
    stem, _, extension = base.partition(".")
    length = _octal(size)
    if length is None or not stem or not extension:
        raise TarDamageError(f"damaged header at byte {offset}")
    return Member(folder + slash + stem, extension.lower(), offset + BLOCK, length)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _octal(field: bytes) -> int | None:
    try:
        return int(field.strip(b" \0"), 8)
    except ValueError:
        return None
