"""Replaces what identifies a patient by keyed hashes. The key is read in each process and is never stored.

Without the key nobody can test a guess: an unkeyed hash of a patient's number falls to trying all numbers.
"""

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from arl_lightning.errors import UserError

KEY_VARIABLE = "ARL_DEID_KEY"
# 256 bits in hexadecimal or base64, with the fewest distinct characters that a random key has but once in 10^6.
KEY_FORMS = ((re.compile(r"[0-9A-Fa-f]{64,}"), 10), (re.compile(r"[\w+/-]{43,}={0,2}", re.ASCII), 20))
MAX_NEIGHBOURS = 0.5  # share of characters that are the one before them, or the next to it in the alphabet
HASH_BYTES = 16  # 128 bits: two of 10^9 objects collide with a chance below 1e-20
MAKE_KEY = "make one with `openssl rand -hex 32` and keep it inside of your institution"


class Secret:
    """An institution's key, able to hash and to seal; it shows itself neither as text nor in a pickle."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "Secret(hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("the de-identification key must not be pickled; read it again in the other process")

    def hash(self, purpose: str, *values: str) -> str:
        """Return the keyed hash of values, 32 hexadecimal digits (HMAC-SHA-256, RFC 2104, truncated to 128 bits).

        The same values give another hash for another purpose, so that equal numbers in two fields cannot be linked.
        """
        return self._mac(purpose, *(_encode(value) for value in values))[:HASH_BYTES].hex()

    def seal(self, text: str) -> str:
        """Encrypt a text so that only the key opens it again; equal texts give equal seals.

        The scheme is that of SIV (RFC 5297) on HMAC-SHA-256: the text's MAC is both its check and the nonce.
        """
        data = _encode(text)
        nonce = self._mac("seal", data)[:HASH_BYTES]
        return (nonce + self._mask(nonce, data)).hex()

    def unseal(self, sealed: str) -> str:
        """Return the text that `seal` was given.

        Raises:
            UserError: If it was sealed with another key.
        """
        nonce, masked = bytes.fromhex(sealed)[:HASH_BYTES], bytes.fromhex(sealed)[HASH_BYTES:]
        data = self._mask(nonce, masked)
        if not hmac.compare_digest(nonce, self._mac("seal", data)[:HASH_BYTES]):
            raise UserError(f"{KEY_VARIABLE}: not the key that this packing began with; give that key, or pack anew")
        return data.decode("utf-8", "surrogateescape")

    def _mac(self, purpose: str, *values: bytes) -> bytes:
        # Each value with its length: ("1", "23") and ("12", "3") are different.
        message = b"".join(len(value).to_bytes(8, "big") + value for value in (_encode(purpose), *values))
        return hmac.digest(self._key, message, "sha256")

    def _mask(self, nonce: bytes, data: bytes) -> bytes:
        num_blocks = -(-len(data) // 32)
        stream = b"".join(self._mac("stream", nonce, block.to_bytes(8, "big")) for block in range(num_blocks))
        return bytes(left ^ right for left, right in zip(data, stream, strict=False))


def resolve_key(key_file: Path | None = None, environment: Mapping[str, str] = os.environ) -> Secret:
    """Read the key from a file, or from `ARL_DEID_KEY` where no file is named.

    Raises:
        UserError: If there is no key, it is no random one of 256 bits, or others may read its file.
    """
    place = str(key_file) if key_file else KEY_VARIABLE
    key = (_read_key(key_file) if key_file else environment.get(KEY_VARIABLE, "")).strip()
    if not key:
        raise UserError(f"{place}: holds no key, and DICOM is packed only de-identified with one; {MAKE_KEY}")
    if not _looks_random(key):
        raise UserError(f"{place}: the key can be guessed; it needs 64 random hexadecimal digits: {MAKE_KEY}")
    return Secret(hashlib.sha256(b"arl-dicom\0" + _encode(key)).digest())


def _looks_random(key: str) -> bool:
    """Refuse words, placeholders, repetitions and runs; what people invent cannot be told from chance for sure."""
    if not any(form.fullmatch(key) and len(set(key)) >= distinct for form, distinct in KEY_FORMS):
        return False
    if any(key[period:] == key[:-period] for period in range(1, len(key) // 2 + 1)):
        return False
    neighbours = sum(abs(ord(one) - ord(other)) <= 1 for one, other in pairwise(key))
    return neighbours <= MAX_NEIGHBOURS * len(key)


def _read_key(path: Path) -> str:
    try:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UserError(f"{path}: others than its owner may read this key; run `chmod 600` on it")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: the key cannot be read ({reason}); key_file names a text file with the key") from None


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
