"""Collectives that are the identity in a single process."""
