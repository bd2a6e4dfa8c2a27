"""Tensors from outside, and tensors inside of lists and dicts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def is_dense(value: Any) -> bool:
    """Whether this is a strided tensor with values: neither sparse, nor nested, nor on "meta"."""
    strided = isinstance(value, Tensor) and value.layout == torch.strided
    return strided and not (value.is_nested or value.is_meta)


def moved(value: Any, device: torch.device | str | int, *, non_blocking: bool = False) -> Any:
    """A value with all tensors in it, in lists, tuples and dicts too, on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, list | tuple):
        parts = [moved(part, device, non_blocking=non_blocking) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, Mapping):
        return {key: moved(part, device, non_blocking=non_blocking) for key, part in value.items()}
    return value
