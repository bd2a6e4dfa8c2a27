"""What a recorded call depends on besides its arguments, and which models are recorded unasked.

A CUDA graph sees no Python. Who asks for graphs says that nothing else decides what the model computes;
who does not must get what the call itself would give.
"""

from collections.abc import Hashable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from autogaze.vision_encoders.adapter import EncoderAdapter

KNOWN = ("torch", "transformers", "autogaze")
"""Packages whose modules compute the same of the same weights in every call of evaluation mode. Others, such as
adapters that can be switched off, may go by attributes of their own."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


def modules_of(model: nn.Module) -> Iterator[nn.Module]:
    """The modules, by their own tables: for every replay asks, and `modules()` takes far longer."""
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None:
            yield module
            waiting += module._modules.values()


def addresses(model: nn.Module) -> tuple[int, ...]:
    """Where the weights and buffers lie.

    `parameters()` names all of them, which takes a third of a millisecond for a SigLIP, as long as its
    layers.
    """
    return tuple(
        tensor.data_ptr()
        for module in modules_of(model)
        for tensors in (module._parameters, module._buffers)
        for tensor in tensors.values()
        if tensor is not None
    )


def is_known(encoder: EncoderAdapter) -> bool:
    """Whether weights and arguments alone decide what a model computes: no hook, no foreign module.

    A module whose `forward` was replaced counts as foreign, and so do weights that are no plain tensors.
    """
    if any(getattr(global_hooks, name) for name in _GLOBAL_HOOKS):
        return False
    if not _is_from_known(type(encoder)):
        return False
    for module in modules_of(encoder.model):
        own = module.__dict__
        if not _is_from_known(type(module)) or "forward" in own:
            return False
        if any(own[name] for name in _HOOKS):
            return False
        for tensor in own["_parameters"].values():
            if tensor is not None and type(tensor) not in (Tensor, nn.Parameter):
                return False
    return True


def _is_from_known(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in KNOWN


def is_observed(device: torch.device) -> bool:
    """Whether somebody sees single operators: a compiler, another recording, or a mode of PyTorch's."""
    return bool(
        torch.compiler.is_compiling()
        or _get_current_dispatch_mode_stack()
        or _get_current_function_mode_stack()
        or torch.jit.is_tracing()
        or (device.type == "cuda" and torch.cuda.is_current_stream_capturing())
    )


def choices() -> Hashable:
    """PyTorch's switches by which a kernel is chosen."""
    cuda = torch.backends.cuda
    return (
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        cuda.matmul.allow_tf32,
        cuda.matmul.allow_bf16_reduced_precision_reduction,
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
    )
