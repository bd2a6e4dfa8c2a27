"""What tensors from outside are."""

from typing import Any

import torch
from torch import Tensor


def is_dense(value: Any) -> bool:
    """Whether this is a strided tensor with values: neither sparse, nor nested, nor on "meta"."""
    strided = isinstance(value, Tensor) and value.layout == torch.strided
    return strided and not (value.is_nested or value.is_meta)
