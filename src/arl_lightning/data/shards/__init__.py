"""What a shard and its manifest are, and how a packed corpus is looked after."""
