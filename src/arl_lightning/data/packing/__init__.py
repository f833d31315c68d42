"""From sources to packed shards: `command.py` parses, `pack.py` is the way through."""
