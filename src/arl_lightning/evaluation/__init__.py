"""Metrics, their uncertainty, and what a run leaves: arrays in, numbers, tables and figures out."""
