"""Measures and works out what a run needs of its shards: `arl shards bench` and `arl shards preflight`."""
