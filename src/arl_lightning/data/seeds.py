"""Seeds that belong to a sample, not to a process: an order drawn from them is the same on any number of ranks.

Free of torch, as is everything that says who reads what (`stream/epoch.py`): a program that only counts starts at once.
"""

import hashlib


def sample_seed(seed: int, epoch: int, key: str) -> int:
    """Return a sample's seed in an epoch, 0 <= seed < 2^63, the same in every process and on every machine."""
    words = f"{seed}/{epoch}/{key}".encode(errors="surrogatepass")  # a file's name need not be valid Unicode
    digest = hashlib.blake2b(words, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
