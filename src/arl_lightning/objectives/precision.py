"""The precision in which losses, norms and the adaptive weight are kept."""

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Raise half precision to float32; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def autocast_off(tensor: Tensor) -> torch.autocast:
    """Return a context in which products keep their operands' precision, on the tensor's device."""
    return torch.autocast(tensor.device.type, enabled=False)
