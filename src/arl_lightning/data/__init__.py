"""From images to batches: anatomy vocabulary, sources, shards, views and the pretraining DataModule."""
