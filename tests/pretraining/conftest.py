"""Makes the encoder of every pretraining test small."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "data"))  # tiny_shards, when these tests run alone


@pytest.fixture(autouse=True)
def _tiny_encoder():
    from tiny_arl import tiny_encoder

    with tiny_encoder():
        yield
