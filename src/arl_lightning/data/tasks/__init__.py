"""Downstream tasks: what their files hold, how they are split, checked, decoded and batched."""
