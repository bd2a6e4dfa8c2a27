"""The attention function that transformers' own layers call while they encode gazes.

transformers lets attention functions be registered by name and hands each of them
whatever was given to the layer as its mask. A gazed model runs under our name, and
its mask is a `TokenLayout`: so layers, norms, LoRA adapters and checkpointing stay
theirs, and no dense mask exists.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from autogaze.errors import EncoderError
from autogaze.vision_encoders.flex import flex_attention
from autogaze.vision_encoders.grouped import grouped_attention
from autogaze.vision_encoders.layout import TokenLayout

NAME = "autogaze"
"""What `config._attn_implementation` of a gazed model says."""
AttentionBackend = Literal["auto", "grouped", "flex"]
FEW_CALLS = 4
"""Up to this many calls of SDPA are as fast as FlexAttention on a GPU."""


def check_backend(backend: str) -> None:
    """Raise EncoderError for a name that is none of `AttentionBackend`."""
    known = get_args(AttentionBackend)
    if backend not in known:
        raise EncoderError(f"unknown attention backend {backend!r}; known are {', '.join(known)}")


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
    """Attention of packed tokens by the backend that suits the device.

    "grouped" (SDPA, a call for every length) works everywhere; "flex" needs a compiler
    and knows no dropout; "auto" takes flex on a GPU where lengths differ.
    """
    if backend == "auto":
        calls = len(layout.groups) * (
            len(layout.lengths[0]) if layout.attn_type == "block_causal" and layout.lengths else 1
        )
        flexible = query.is_cuda and not dropout and calls > FEW_CALLS
        backend = "flex" if flexible else "grouped"
    if backend == "flex":
        if dropout:
            raise EncoderError(
                f"FlexAttention knows no dropout, and the model's is {dropout}; use backend='grouped'"
            )
        if query.requires_grad and not query.is_cuda:
            raise EncoderError(
                "FlexAttention gives no gradients on a CPU; use backend='grouped', or no_grad"
            )
        return flex_attention(query, key, value, layout, scale=scale)
    return grouped_attention(query, key, value, layout, scale=scale, dropout=dropout)


def gazed_attention(
    module: nn.Module,
    query: Float[Tensor, "one H N D"],
    key: Float[Tensor, "one H N D"],
    value: Float[Tensor, "one H N D"],
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Float[Tensor, "one N H D"], None]:
    """The interface that transformers calls: gazed under a layout, else dense by SDPA."""
    if not isinstance(attention_mask, TokenLayout):
        dense: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return dense(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            dropout=dropout,
            **options,
        )
    out = packed_attention(
        query[0],
        key[0],
        value[0],
        attention_mask,
        scale=scaling,
        dropout=dropout,
        backend=attention_mask.backend,
    )
    return out[None], None


ALL_ATTENTION_FUNCTIONS.register(NAME, gazed_attention)
