"""Makes the encoder of every pretraining test small, and its products single-threaded: they are too small to share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _tiny_encoder():
    from tiny_arl import tiny_encoder

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tiny_encoder():
        yield
    torch.set_num_threads(num_threads)
