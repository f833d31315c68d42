import pytest
import torch
from scipy import stats

from arl_lightning.data.draws import uniform
from arl_lightning.data.seeds import sample_seed

UNSIGNED = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """splitmix64's finaliser in Python's unbounded integers."""
    value &= UNSIGNED
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & UNSIGNED
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & UNSIGNED
    return value ^ (value >> 31)


def reference(seed: int, stream: int, column: int) -> int:
    state = mix(mix(seed) + (stream + 1) * GOLDEN)
    return mix(state + (column + 1) * GOLDEN)


def test_the_finaliser_is_splitmix64():
    # The first outputs of splitmix64 seeded with 1234567, as published with the algorithm.
    assert [mix(1234567 + (i + 1) * GOLDEN) for i in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.float64, 53)])
def test_draws_equal_the_reference_in_python_integers(dtype, bits):
    seeds = [0, 1, 2**62 + 12345, 2**63 - 1]
    draws = uniform(torch.tensor(seeds), 3, stream=5, dtype=dtype)
    expected = [[(reference(seed, 5, i) >> (64 - bits)) / 2**bits for i in range(3)] for seed in seeds]
    assert draws.dtype == dtype
    assert draws.tolist() == expected


def test_draws_are_uniform():
    seeds = torch.tensor([sample_seed(0, 0, f"k{i}") for i in range(200)])
    draws = uniform(seeds, 500, stream=0, dtype=torch.float64).flatten()
    assert draws.min() >= 0
    assert draws.max() < 1
    # 100,000 draws: the standard errors are 0.0009 and 0.0002.
    assert draws.mean().item() == pytest.approx(1 / 2, abs=0.004)
    assert draws.var().item() == pytest.approx(1 / 12, abs=0.001)
    assert stats.kstest(draws.numpy(), "uniform").pvalue > 0.001


def test_neighbouring_seeds_streams_and_columns_are_independent():
    seeds = torch.arange(10_000)
    draws = uniform(seeds, 2, stream=0, dtype=torch.float64)
    other_stream = uniform(seeds, 2, stream=1, dtype=torch.float64)
    pairs = {
        "seeds": (draws[:-1, 0], draws[1:, 0]),
        "streams": (draws[:, 0], other_stream[:, 0]),
        "stream and column": (draws[:, 1], other_stream[:, 0]),
        "columns": (draws[:, 0], draws[:, 1]),
    }
    for name, (first, second) in pairs.items():
        # The standard error of a correlation of 10,000 pairs is 0.01.
        assert abs(stats.pearsonr(first, second).statistic) < 0.04, name


def test_a_samples_draws_do_not_depend_on_the_batch_or_the_number_of_draws():
    seeds = torch.tensor([7, 8, 9])
    assert torch.equal(uniform(seeds, 6, stream=3)[1:2, :4], uniform(seeds[1:2], 4, stream=3))


def test_float32_draws_stay_below_one():
    assert uniform(torch.arange(300_000), 10, stream=0).max() < 1


def test_sample_seed_is_stable_and_depends_on_all_its_arguments():
    # Fixed once and for all: another value would change every run's order and draws on resumption.
    assert sample_seed(0, 0, "k00000") == 3658024883237628898
    seeds = {sample_seed(s, e, k) for s in range(3) for e in range(3) for k in ("a", "b", "c")}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_key_need_not_be_valid_unicode():
    names = [name.decode(errors="surrogateescape") for name in (b"b\xf6se.png", b"b\xf7se.png")]
    assert len({sample_seed(0, 0, name) for name in names}) == 2
