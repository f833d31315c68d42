"""From shards to batches: `epoch.py` says what is read, `reader.py` reads it, `loader.py` hands it to the trainer."""
