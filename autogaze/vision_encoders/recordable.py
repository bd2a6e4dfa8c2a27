"""What a recorded call depends on besides its arguments, and which models are recorded unasked.

A CUDA graph sees no Python. Who asks for graphs says that nothing else decides what the model computes;
who does not must get what the call itself would give.
"""

from collections.abc import Hashable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.nn.utils import parametrize
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from autogaze.vision_encoders.adapter import EncoderAdapter

KNOWN = ("torch", "transformers", "autogaze")
"""Packages whose modules compute the same of the same weights in every call of evaluation mode. Others,
such as adapters that can be switched off, may go by attributes of their own."""

_PLAIN = (Tensor, nn.Parameter)


def addresses(model: nn.Module) -> tuple[int, ...]:
    """Where the modules, weights and buffers lie: others take their place elsewhere.

    By modules' own tables, for every replay asks: `parameters()` names all of them, which takes a third
    of a millisecond for a SigLIP, as long as its layers.
    """
    found: list[int] = []
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None:
            found.append(id(module))
            for tensors in (module._parameters, module._buffers):
                found += [tensor.data_ptr() for tensor in tensors.values() if tensor is not None]
            waiting += module._modules.values()
    return tuple(found)


def addresses_if_known(encoder: EncoderAdapter) -> tuple[int, ...] | None:
    """`addresses` of a model of whose computation weights and arguments alone decide; None of others.

    Those have hooks, modules in training mode, or modules of foreign packages. A module whose `forward` was replaced counts as
    foreign, and so do weights that are no plain tensors. One pass, for every call asks.
    """
    if global_hooks._global_forward_hooks or global_hooks._global_forward_pre_hooks:
        return None
    if not _is_known(type(encoder).__module__):
        return None
    found: list[int] = []
    waiting: list[nn.Module | None] = [encoder.model]
    while waiting:
        module = waiting.pop()
        if module is None:
            continue
        own = module.__dict__
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own:
            return None
        if own["training"]:  # alone, in a model of evaluation mode: it may drop out
            return None
        if not _is_known(type(module).__module__):
            return None
        found.append(id(module))
        for tensors in (own["_parameters"], own["_buffers"]):
            for tensor in tensors.values():
                if tensor is not None:
                    if type(tensor) not in _PLAIN:
                        return None
                    found.append(tensor.data_ptr())
        waiting += own["_modules"].values()
    return tuple(found)


@lru_cache(maxsize=512)
def _is_known(module: str) -> bool:
    """Whether the package that a class's module is in is one of `KNOWN`."""
    return module.partition(".")[0] in KNOWN


def is_observed(device: torch.device) -> bool:
    """Whether somebody sees single operators: a compiler, another recording, or a mode of PyTorch's.

    Also where weights that are computed of others are kept for a while, and not computed in the graph.
    """
    return bool(
        torch.compiler.is_compiling()
        or _get_current_dispatch_mode_stack()
        or _get_current_function_mode_stack()
        or torch.jit.is_tracing()
        or parametrize._cache_enabled
        or (device.type == "cuda" and torch.cuda.is_current_stream_capturing())
    )


def choices() -> Hashable:
    """PyTorch's switches by which a kernel is chosen."""
    cuda = torch.backends.cuda
    # From PyTorch 2.9 on. The older names are errors there where this one was set.
    precision = getattr(cuda.matmul, "fp32_precision", None)
    return (
        precision == "tf32" if precision else torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        cuda.matmul.allow_bf16_reduced_precision_reduction,
        cuda.matmul.allow_fp16_reduced_precision_reduction,
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
    )
