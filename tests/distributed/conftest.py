"""Lets these tests use tests/pretraining/tiny_arl.py when they run alone; the ranks they start inherit the path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "pretraining"))
