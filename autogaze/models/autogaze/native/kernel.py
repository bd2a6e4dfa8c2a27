"""Which kernel computes attention over a cache: ours, or PyTorch's."""

import logging
import os
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional as F

from autogaze.errors import SelectorError
from autogaze.models.autogaze.native.build import NotBuiltError, built_library
from autogaze.models.autogaze.native.library import Fed, Library

SWITCH = "AUTOGAZE_ATTENTION"
"""Environment variable: "torch", "native" (an error where it cannot be had) or not set."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttentionKernel:
    """What computes attention, and why this one.

    Attributes:
        name: "native" is attention.c, compiled here; "torch" is PyTorch's.
        why: the reason, in words.
        library: attention.c, compiled for the head dimension asked for.
    """

    name: Literal["native", "torch"]
    why: str
    library: Library | None = field(default=None, repr=False, compare=False)


def attention_kernel(like: Shaped[Tensor, "..."], head_dim: int) -> AttentionKernel:
    """What will gaze with tensors like this one; compiles the native kernel at first.

    Raises:
        SelectorError: AUTOGAZE_ATTENTION is none of its values, or asks for what is not there.
    """
    wish = os.environ.get(SWITCH) or None
    if wish not in (None, "native", "torch"):
        raise SelectorError(f"{SWITCH} must be 'native' or 'torch' or not set, got {wish!r}")
    if wish == "torch":
        return AttentionKernel("torch", f"{SWITCH}=torch")
    kernel = _possible(like, head_dim)
    if wish == "native" and kernel.name != "native":
        raise SelectorError(f"{SWITCH}=native, but it cannot be had: {kernel.why}")
    return kernel


def _possible(like: Shaped[Tensor, "..."], head_dim: int) -> AttentionKernel:
    if like.device.type != "cpu" or like.dtype != torch.float32:
        return AttentionKernel(
            "torch", f"ours is for float32 on a CPU, not {like.dtype} on {like.device}"
        )
    if torch.is_grad_enabled():
        return AttentionKernel("torch", "ours has no gradients")
    if head_dim % 4 or head_dim > 256:
        return AttentionKernel(
            "torch", f"ours takes head dimensions 4, 8, ..., 256, not {head_dim}"
        )
    if sys.platform != "linux":
        return AttentionKernel("torch", f"ours is built on Linux only, not on {sys.platform}")
    return _built(head_dim)


@cache
def _built(head_dim: int) -> AttentionKernel:
    try:
        path = built_library(head_dim)
        library = Library(path)
        _check(library, head_dim)
    except NotBuiltError as error:
        kernel = AttentionKernel("torch", str(error))
    else:
        kernel = AttentionKernel("native", f"compiled here: {path}", library)
    log.debug("attention: %s (%s)", kernel.name, kernel.why)
    return kernel


def _check(library: Library, head_dim: int) -> None:
    """A compiler that gets it wrong should cost speed, not gazes."""
    count, held, capacity = 40, 300, 352
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(held + count, 4, head_dim, generator=generator)
    cache = torch.full((1, 2, capacity, head_dim), float("nan"))
    everything = Fed(library, cache, [0], [0], [held + count])
    library.store(everything, cache, tokens[:, 2:])
    queries = tokens[held:, :2] * head_dim**-0.5
    found = library.attend(Fed(library, cache, [0], [held], [count]), cache, queries)
    keys, values = tokens[:, 2], tokens[:, 3]
    seen = torch.ones(count, held + count, dtype=torch.bool).tril(held)
    expected = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        keys.expand(1, 2, -1, -1),
        values.expand(1, 2, -1, -1),
        attn_mask=seen,
        scale=1.0,
    )
    if not torch.allclose(found, expected[0].transpose(0, 1).flatten(1), atol=1e-5):
        raise NotBuiltError("the compiled kernel gives wrong results")
