"""Downstream tasks: fine-tuning, probes, segmentation, and the runs that report on them."""
