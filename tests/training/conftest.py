"""Makes the encoder of every test here small."""

import pytest


@pytest.fixture(autouse=True)
def _tiny_encoder():
    from tiny_arl import tiny_encoder

    with tiny_encoder():
        yield
