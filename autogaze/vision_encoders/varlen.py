"""Packed attention by kernels for segments of any lengths: PyTorch's, or FlashAttention's.

A frame attends to itself, or to all frames of its clip up to itself: a segment of queries and one of
keys. Growing prefixes overlap, which these kernels do not take, so their keys are laid one prefix
after another.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import accumulate
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.utils.device import sent
from autogaze.vision_encoders.layout import TokenLayout, kept_by_layout


@dataclass(frozen=True, eq=False)
class Segments:
    """S segments of queries, none of them empty, and the segment of keys that each attends to.

    Attributes:
        query_edges, key_edges: where segments begin, and where the last one ends.
        longest_query, longest_key: tokens of the longest segment.
        keys: the tokens that are the keys of all segments; None: every token once, in order.
        num_keys: how many these are.
    """

    query_edges: Int[Tensor, " edges"]
    key_edges: Int[Tensor, " edges"]
    longest_query: int
    longest_key: int
    keys: Int[Tensor, " M"] | None
    num_keys: int


@kept_by_layout
def segments(layout: TokenLayout) -> Segments:
    """The segments of a layout; with causal attention a query sees none of its own behind it."""
    queries: list[int] = []
    spans: list[range] = []  # of the keys
    start = 0
    for frames in layout.clip_frames:
        ends = list(accumulate(frames, initial=start))
        if layout.attn_type == "frame_independent":
            parts = [(count, range(end - count, end)) for count, end in _pairs(frames, ends)]
        elif layout.attn_type == "block_causal":
            parts = [(count, range(start, end)) for count, end in _pairs(frames, ends)]
        else:
            parts = [(sum(frames), range(start, ends[-1]))]
        queries += [count for count, _ in parts if count]
        spans += [span for count, span in parts if count]
        start = ends[-1]
    lengths = [len(span) for span in spans]
    keys = None
    if sum(lengths) != start:  # they overlap
        index = torch.cat([torch.arange(span.start, span.stop) for span in spans])
        keys = sent(index, layout.device)
    return Segments(
        _edges(queries, layout.device),
        _edges(lengths, layout.device),
        max(queries, default=0),
        max(lengths, default=0),
        keys,
        sum(lengths),
    )


def _pairs(frames: tuple[int, ...], ends: list[int]) -> "zip[tuple[int, int]]":
    """Tokens of every frame, and where it ends."""
    return zip(frames, ends[1:], strict=True)


def _edges(counts: list[int], device: torch.device) -> Int[Tensor, " edges"]:
    return sent(torch.tensor([0, *accumulate(counts)], dtype=torch.int32), device)


Kernel = Callable[..., Tensor]
"""(query, key, value (N, H, D), segments, causal=, scale=, dropout=) -> (N, H, D)."""


def varlen_attention(
    query: Float[Tensor, "H N D"],
    key: Float[Tensor, "H N D"],
    value: Float[Tensor, "H N D"],
    layout: TokenLayout,
    kernel: Kernel,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "N H D"]:
    """Attention by one call of a kernel for all segments of the layout."""
    parts = segments(layout)
    q, k, v = (x.transpose(0, 1) for x in (query, key, value))  # (N, H, D)
    if parts.keys is not None:
        k, v = k.index_select(0, parts.keys), v.index_select(0, parts.keys)
    causal = layout.attn_type == "causal"
    return kernel(q, k, v, parts, causal=causal, scale=scale, dropout=dropout)


def torch_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    parts: Segments,
    *,
    causal: bool,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """`torch.nn.attention.varlen`, which has no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    attended = varlen_attn(
        query,
        key,
        value,
        parts.query_edges,
        parts.key_edges,
        parts.longest_query,
        parts.longest_key,
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
    )
    return cast(Tensor, attended)


def flash_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    parts: Segments,
    *,
    causal: bool,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """FlashAttention's `flash_attn_varlen_func`."""
    from flash_attn import flash_attn_varlen_func

    return cast(
        Tensor,
        flash_attn_varlen_func(
            query,
            key,
            value,
            parts.query_edges,
            parts.key_edges,
            parts.longest_query,
            parts.longest_key,
            dropout_p=dropout,
            softmax_scale=scale,
            causal=causal,
        ),
    )


KERNELS: dict[str, Kernel] = {"varlen": torch_kernel, "flash": flash_kernel}


def not_installed(backend: str) -> str | None:
    """Why a kernel of these is not on this machine, whatever it is to compute; None if it is."""
    if backend == "flash":
        return None if _has("flash_attn") else "the package flash_attn is not installed"
    if not _has("torch.nn.attention.varlen"):
        return f"PyTorch {torch.__version__} has no torch.nn.attention.varlen; 2.11 has"
    if not {"scale", "window_size"} <= _varlen_options():
        return f"varlen_attn of PyTorch {torch.__version__} takes no scale; that of 2.11 does"
    return None


@cache
def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


@cache
def _varlen_options() -> set[str]:
    from torch.nn.attention.varlen import varlen_attn

    return set(inspect.signature(cast(Any, varlen_attn)).parameters)


def not_able(
    backend: str, device: torch.device, dtype: torch.dtype, head_size: int, dropout: float
) -> str | None:
    """Why an installed kernel cannot compute this; None if it can."""
    if device.type != "cuda":
        return f"it needs a CUDA GPU, and the tokens are on {device}"
    if backend == "varlen" and not torch.backends.cuda.is_flash_attention_available():
        return "this PyTorch was built without FlashAttention"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 and bfloat16, and the tokens are {dtype}"
    if (major := capability(device)[0]) < 8:
        return f"it needs a GPU of compute capability 8.0, this one has {major}.x"
    if head_size % 8 or head_size > 256:
        return f"it takes heads of 8, 16, ... 256 channels, the model's have {head_size}"
    if backend == "varlen" and dropout:
        return f"it has no dropout, and the model's is {dropout}"
    return None


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a GPU."""
    return torch.cuda.get_device_capability(device)
