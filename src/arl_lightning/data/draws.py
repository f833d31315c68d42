"""Random draws that belong to a sample, not to a process.

A draw is a pure function of the sample's own seed and a stream number: the same on any number of ranks, in any batch,
on any device, after any resume. The generator is counter-based: splitmix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014) applied to the seed, the stream and the column in turn.
"""

# B samples, N draws for each

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """Reinterpret 64 unsigned bits as torch's int64."""
    return value - (1 << 64) if value >> 63 else value


# splitmix64's increment (the golden ratio) and its two multipliers.
INCREMENT = _signed(0x9E3779B97F4A7C15)
MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))

# Random bits that a number in [0, 1) can hold exactly: rounding to nearest would now and then give 1.
MANTISSA_BITS = {torch.float32: 24, torch.float64: 53}


def uniform(seeds: Tensor, num: int, stream: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw numbers in [0, 1) for every sample.

    Args:
        seeds: Sample seeds, int64 (B,).
        num: Draws for each sample.
        stream: Tells one use of a seed from another; uses with different numbers are independent.
        dtype: float32 or float64; both come from the same 64 bits.

    Returns:
        (B, num), on the seeds' device, bit for bit the same on every device.
    """
    bits = MANTISSA_BITS[dtype]
    state = _mix(_mix(seeds) + _wrapped(INCREMENT * (stream + 1)))  # (B,)
    columns = torch.arange(1, num + 1, device=seeds.device) * INCREMENT  # (N,)
    draws = _mix(state[:, None] + columns)  # (B, N)
    return _shift_right(draws, 64 - bits).to(dtype) * 2.0**-bits


def _mix(values: Tensor) -> Tensor:
    """splitmix64's finaliser, a bijection of 64 bits; int64 multiplication wraps around as unsigned would."""
    values = (values ^ _shift_right(values, 30)) * MULTIPLIERS[0]
    values = (values ^ _shift_right(values, 27)) * MULTIPLIERS[1]
    return values ^ _shift_right(values, 31)


def _shift_right(values: Tensor, num_bits: int) -> Tensor:
    """Logical shift: torch's own copies the sign bit in from the left."""
    return (values >> num_bits) & ((1 << (64 - num_bits)) - 1)


def _wrapped(value: int) -> int:
    """Bring a Python integer into int64 as a wrap-around would."""
    return _signed(value & ((1 << 64) - 1))
