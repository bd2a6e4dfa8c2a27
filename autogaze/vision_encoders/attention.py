"""Attention over packed tokens: SDPA per group of equal lengths, or one kernel for all segments."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from itertools import accumulate, pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from autogaze.errors import EncoderError
from autogaze.vision_encoders.key_ranges import (
    flex_attention,
    takes_width,
    triton_attention,
    triton_failure,
)
from autogaze.vision_encoders.layout import TokenLayout
from autogaze.vision_encoders.varlen import (
    KERNELS,
    not_able,
    not_installed,
    segments,
    varlen_attention,
)

AttentionBackend = Literal["auto", "grouped", "varlen", "flash", "flex", "triton"]
"""What computes attention: the one that suits the device and the layout; SDPA per group of equal
lengths; `torch.nn.attention.varlen`; FlashAttention's varlen function; FlexAttention; our own kernel, which
has no gradients."""
FEW_CALLS = 16
"""Number of SDPA calls, those of a clip of 16 frames, up to which they are taken in place of FlexAttention on
a GPU, whose first call compiles for tens of seconds."""
MOST_KEYS = 16
"""Keys per token up to which growing prefixes are laid one after another unasked: in clips of 31
frames of equal lengths. FlexAttention copies none."""


def packed_attention(
    query: Float[Tensor, "H N D"],
    key: Float[Tensor, "H N D"],
    value: Float[Tensor, "H N D"],
    layout: TokenLayout,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Float[Tensor, "N H D"]:
    """Attention of packed tokens.

    Args:
        query, key, value: of the tokens of `layout`.
        layout: which tokens see which.
        scale: of the logits; None means 1 / sqrt(D).
        dropout: of the attention weights.
        backend: one of `AttentionBackend`; "auto" is what `suitable_backend` says.

    Raises:
        EncoderError: a backend that cannot compute this here.
    """
    # Of a frozen projection's queries no gradients are wanted, where they may be of keys and values.
    with_gradients = any(x.requires_grad for x in (query, key, value)) and torch.is_grad_enabled()
    if backend == "auto":
        backend = suitable_backend(layout, query, dropout, with_gradients)
    elif reason := why_not(backend, query, dropout, with_gradients):
        raise _unavailable(backend, reason)
    note_backends({backend})
    if backend == "grouped":
        return grouped_attention(query, key, value, layout, scale=scale, dropout=dropout)
    if backend == "triton":
        return triton_attention(query, key, value, layout, scale=scale)
    if backend == "flex":
        return flex_attention(query, key, value, layout, scale=scale)
    return varlen_attention(
        query, key, value, layout, KERNELS[backend], scale=scale, dropout=dropout
    )


def suitable_backend(
    layout: TokenLayout, query: Float[Tensor, "H N D"], dropout: float, with_gradients: bool = False
) -> str:
    """The backend for a device and a layout: "grouped" on a CPU, and where it is one call.

    On a GPU our own kernel, or else one for segments of any lengths, where it can compute this, but
    FlexAttention for growing prefixes that would be copied often, and where more than `FEW_CALLS` would
    be needed.
    """
    calls = layout.num_groups
    if layout.attn_type == "block_causal" and layout.lengths:
        calls *= len(layout.lengths[0])
    if query.device.type == "cpu" or calls <= 1:
        return "grouped"
    if why_not("triton", query, dropout, with_gradients) is None:
        return "triton"
    able = [name for name in KERNELS if why_not(name, query, dropout, with_gradients) is None]
    if able and segments(layout).num_keys <= MOST_KEYS * layout.num_tokens:
        return able[0]
    flexible = query.is_cuda and why_not("flex", query, dropout, with_gradients) is None
    return "flex" if flexible and calls > FEW_CALLS else "grouped"


def why_not(
    backend: str, query: Float[Tensor, "H N D"], dropout: float, with_gradients: bool = False
) -> str | None:
    """Why a backend cannot compute attention of these queries; None if it can.

    Args:
        with_gradients: whether gradients are wanted, of them or of keys and values.
    """
    if backend in KERNELS:
        return not_installed(backend) or not_able(
            backend, query.device, query.dtype, query.shape[-1], dropout
        )
    if backend == "triton":
        return _not_in_triton(query, dropout, with_gradients)
    if backend == "flex" and dropout:
        return f"FlexAttention has no dropout, and the model's is {dropout}"
    if backend == "flex" and with_gradients and not query.is_cuda:
        return "FlexAttention gives no gradients on a CPU (with no_grad it computes there)"
    if backend == "flex" and not takes_width(query.shape[-1]):
        return (
            f"FlexAttention of PyTorch {torch.__version__} takes heads whose channels are a power of two, "
            f"the model's have {query.shape[-1]}"
        )
    return None


def _not_in_triton(
    query: Float[Tensor, "H N D"], dropout: float, with_gradients: bool
) -> str | None:
    """Why our own kernel cannot compute attention of these queries; None if it can."""
    device, width = query.device, query.shape[-1]
    if device.type != "cuda":
        return f"it needs a CUDA GPU, and the tokens are on {device}"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 and bfloat16, and the tokens are {query.dtype}"
    if with_gradients:
        return "it gives no gradients (with no_grad it computes)"
    if dropout:
        return f"it has no dropout, and the model's is {dropout}"
    if width % 8 or not 16 <= width <= 128:
        return f"it takes heads of 16, 24, ... 128 channels, the model's have {width}"
    if query.shape[-2] * width >= 2**31:
        return f"it counts in 32 bits, and there are {query.shape[-2]} tokens"
    if torch.compiler.is_compiling():
        return "it is not traced by torch.compile"
    return triton_failure(device, query.dtype, width) or None


def check_backend(backend: str) -> None:
    """Raise EncoderError for a name that is none of `AttentionBackend`, or is not installed."""
    if backend not in (known := get_args(AttentionBackend)):
        raise EncoderError(f"unknown attention backend {backend!r}; known are {', '.join(known)}")
    reason = not_installed(backend) if backend in KERNELS else None
    if backend == "triton" and find_spec("triton") is None:
        reason = "the package triton is not installed: pip install 'autogaze[gpu]'"
    if reason:
        raise _unavailable(backend, reason)


def _unavailable(backend: str, reason: str) -> EncoderError:
    return EncoderError(
        f"attention backend {backend!r} cannot be had: {reason}; take backend='grouped' or 'auto'"
    )


_RECORDED: ContextVar[set[str] | None] = ContextVar("recorded backends", default=None)


@contextmanager
def recorded_backends() -> Iterator[set[str]]:
    """Context that collects the backends by which attention is computed in it."""
    recorded: set[str] = set()
    token = _RECORDED.set(recorded)
    try:
        yield recorded
    finally:
        _RECORDED.reset(token)


def note_backends(backends: set[str]) -> None:
    """Collect backends that have computed, where somebody does (`recorded_backends`)."""
    if (recorded := _RECORDED.get()) is not None:
        recorded |= backends


def grouped_attention(
    query: Float[Tensor, "H N D"],
    key: Float[Tensor, "H N D"],
    value: Float[Tensor, "H N D"],
    layout: TokenLayout,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "N H D"]:
    """Attention by SDPA: one call for all segments of equal length (and frame, if block-causal)."""
    causal = layout.attn_type == "causal"

    def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=causal, scale=scale
        )

    attended = []
    for group in layout.groups:
        # (H, G, n, D) -> (G, H, n, D)
        q, k, v = (group.gather(x).transpose(0, 1) for x in (query, key, value))
        if layout.attn_type == "block_causal":
            edges = accumulate(group.frames, initial=0)
            spans = [(start, stop) for start, stop in pairwise(edges) if start < stop]
            parts = [sdpa(q[:, :, a:b], k[:, :, :b], v[:, :, :b]) for a, b in spans]
            out = torch.cat(parts, dim=2)
        else:
            out = sdpa(q, k, v)
        attended.append(out.transpose(1, 2).flatten(0, 1))  # (G * n, H, D)
    if len(attended) == 1:
        return attended[0]  # one group is the whole sequence, in its order
    packed = torch.cat(attended) if attended else query.transpose(0, 1)
    return packed[layout.from_groups]
