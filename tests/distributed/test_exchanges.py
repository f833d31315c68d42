"""Each parameter's gradient travels once a step, each block's weights once a forward and once a backward pass."""

import pytest
from exchanges import CASES, KEPT, NUM_COUNTED_STEPS
from layouts import DDP_2, FSDP2

BLOCKS = [f"encoder.blocks.{index}" for index in range(2)]
TRAINED = [*(f"student.{block}" for block in BLOCKS), "student.decoder.blocks.0"]


@pytest.mark.parametrize("case", CASES)
def test_ddp_reduces_every_gradient_once_a_step(results, case):
    for rank in results(DDP_2):
        counted = rank["exchanges"][case]
        assert counted["counts"] == dict.fromkeys(counted["trained"], NUM_COUNTED_STEPS)


@pytest.mark.parametrize("case", CASES)
def test_fsdp2_reduces_every_units_gradients_once_a_step(results, case):
    for rank in results(FSDP2):
        expected = dict.fromkeys([*TRAINED, "student", "discriminator"], NUM_COUNTED_STEPS)
        assert rank["exchanges"][case]["reduced"] == expected


@pytest.mark.parametrize("case", CASES)
def test_all_passes_of_a_batch_share_one_gathering(results, case):
    """A trained block is gathered forward and backward, a root and the teacher's blocks forward only."""
    for rank in results(FSDP2):
        counted = rank["exchanges"][case]
        once = dict.fromkeys(["student", "teacher", *(f"teacher.{block}" for block in BLOCKS)], counted["batches"])
        twice = dict.fromkeys(TRAINED, 2 * counted["batches"])
        assert {name: count for name, count in counted["gathered"].items() if name != "discriminator"} == once | twice
        # Its gradient with respect to the reconstruction comes before the backward pass: its weights are freed once.
        assert counted["gathered"]["discriminator"] <= 2 * counted["batches"]


def test_weights_that_are_kept_are_gathered_once_a_batch(results):
    for rank in results(FSDP2):
        counted = rank["exchanges"][KEPT]
        networks = ["student", "teacher", *(f"teacher.{block}" for block in BLOCKS), *TRAINED]
        assert {name: count for name, count in counted["gathered"].items() if name != "discriminator"} == dict.fromkeys(
            networks, counted["batches"]
        )
        assert counted["reduced"] == dict.fromkeys([*TRAINED, "student", "discriminator"], NUM_COUNTED_STEPS)
