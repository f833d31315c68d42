"""WebDataset shards: one sample's format, the manifest, the writer and the stream."""
