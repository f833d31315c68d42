"""`arl preflight`: what a pretraining run needs, and whether it is there, before it takes its GPUs."""
