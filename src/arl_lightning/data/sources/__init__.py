"""Readers: each turns files (or a generator) into `Sample`s and never writes."""
