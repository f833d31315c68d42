"""Anatomy-aware representation learning for medical ultrasound (ARL), on PyTorch Lightning."""

__version__ = "0.1.0"
