"""Attention over packed tokens: SDPA per group of equal lengths, or one FlexAttention kernel.

transformers lets attention functions be registered by name and passes each of them the layer's
mask. A gazed model runs under the name `autogaze`, and its mask is a `TokenLayout`: layers,
norms, LoRA adapters and checkpointing stay the model's own, and no dense mask exists.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from autogaze.errors import EncoderError
from autogaze.vision_encoders.layout import TokenLayout

NAME = "autogaze"
"""`config._attn_implementation` of a gazed model."""
AttentionBackend = Literal["auto", "grouped", "flex"]
FEW_CALLS = 4
"""Number of SDPA calls up to which they are as fast as FlexAttention on a GPU."""
BLOCK = 128
"""Side of FlexAttention's blocks of tokens, each skipped or computed as a whole."""


def gazed_attention(
    module: nn.Module,
    query: Float[Tensor, "one H N D"],
    key: Float[Tensor, "one H N D"],
    value: Float[Tensor, "one H N D"],
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: TokenLayout | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "one N H D"], None]:
    """Attention function registered with transformers: packed under a layout, else dense SDPA.

    The layout comes as the mask, or as `layout` through models that give no mask.
    """
    options.update(scaling=scaling, dropout=dropout)
    if isinstance(attention_mask, TokenLayout):
        layout = attention_mask
    if layout is None:
        dense: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return dense(module, query, key, value, attention_mask, **options)
    out = packed_attention(
        query[0],
        key[0],
        value[0],
        layout,
        scale=scaling,
        dropout=dropout,
        backend=layout.backend,
    )
    return out[None], None


ALL_ATTENTION_FUNCTIONS.register(NAME, gazed_attention)


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

    Args:
        query, key, value: of the tokens of `layout`.
        layout: which tokens see which.
        scale: of the logits; None means 1 / sqrt(D).
        dropout: of the attention weights.
        backend: "grouped" (an SDPA call for every length) works everywhere; "flex" needs a
            compiler and has no dropout; "auto" takes flex on a GPU where lengths differ.

    Raises:
        EncoderError: "flex" with dropout, or with gradients on a CPU.
    """
    if backend == "auto":
        calls = len(layout.groups)
        if layout.attn_type == "block_causal" and layout.lengths:
            calls *= len(layout.lengths[0])
        flexible = query.is_cuda and not dropout and calls > FEW_CALLS
        backend = "flex" if flexible else "grouped"
    if backend == "grouped":
        return grouped_attention(query, key, value, layout, scale=scale, dropout=dropout)
    if dropout:
        raise EncoderError(
            f"FlexAttention has no dropout, and the model's is {dropout}; use backend='grouped'"
        )
    if query.requires_grad and not query.is_cuda:
        raise EncoderError(
            "FlexAttention gives no gradients on a CPU; use backend='grouped', or no_grad"
        )
    return flex_attention(query, key, value, layout, scale=scale)


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


def flex_attention(
    query: Float[Tensor, "H N D"],
    key: Float[Tensor, "H N D"],
    value: Float[Tensor, "H N D"],
    layout: TokenLayout,
    *,
    scale: float | None = None,
    compiled: bool = True,
) -> Float[Tensor, "N H D"]:
    """Attention by one FlexAttention kernel for the whole ragged batch."""
    kernel = _kernel(compiled)
    out = kernel(query[None], key[None], value[None], block_mask=_block_mask(layout), scale=scale)
    return out[0].transpose(0, 1)


@cache
def _kernel(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention as kernel

    if compiled:
        return torch.compile(kernel, dynamic=True)
    return kernel


@lru_cache(maxsize=4)
def _block_mask(layout: TokenLayout) -> Any:
    """The layout's BlockMask, made once for all layers, which ask for it one after another."""
    from torch.nn.attention.flex_attention import BlockMask

    bounds = visible_bounds(layout)
    partly, wholly = visible_blocks(bounds)
    first, end = (bounds[:, side].contiguous().to(layout.device) for side in (0, 1))

    def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
        counts = blocks.sum(-1, dtype=torch.int32)
        # A stable sort of the flags puts the blocks that count first, ascending.
        order = blocks.int().sort(dim=-1, descending=True, stable=True).indices.int()
        return counts[None, None].to(layout.device), order[None, None].to(layout.device)

    return BlockMask.from_kv_blocks(
        *listed(partly),
        *listed(wholly),
        BLOCK_SIZE=BLOCK,
        # Traced by the compiler, so nothing may stand around it, not even a shape check.
        mask_mod=lambda b, h, q, k: (k >= first[q]) & (k < end[q]),
        seq_lengths=(len(bounds), len(bounds)),
    )


def visible_bounds(layout: TokenLayout) -> Int[Tensor, "N 2"]:
    """[first, end) of the keys that each token sees."""
    frames = torch.tensor(layout.frame_lengths)
    clips = torch.tensor([sum(clip) for clip in layout.clip_frames])
    frames_per_clip = torch.tensor([len(clip) for clip in layout.clip_frames])
    frame_end = frames.cumsum(0).repeat_interleave(frames)
    frame_first = frame_end - frames.repeat_interleave(frames)
    frame_of_token = torch.arange(len(frames)).repeat_interleave(frames)
    clip_of_token = torch.arange(len(clips)).repeat_interleave(frames_per_clip)[frame_of_token]
    clip_end = clips.cumsum(0)[clip_of_token]
    clip_first = clip_end - clips[clip_of_token]
    bounds = {
        "block_causal": (clip_first, frame_end),
        "causal": (clip_first, torch.arange(layout.num_tokens) + 1),
        "bidirectional": (clip_first, clip_end),
        "frame_independent": (frame_first, frame_end),
    }
    return torch.stack(bounds[layout.attn_type], dim=1)


def visible_blocks(
    bounds: Int[Tensor, "N 2"],
) -> tuple[Bool[Tensor, "blocks blocks"], Bool[Tensor, "blocks blocks"]]:
    """Blocks of keys that each block of queries sees in part, and those that it sees wholly."""
    missing = -len(bounds) % BLOCK
    padded = torch.cat([bounds, bounds[-1:].expand(missing, 2)]).unflatten(0, (-1, BLOCK))
    first, end = padded.unbind(-1)  # (blocks, BLOCK)
    left = torch.arange(len(padded)) * BLOCK
    right = left + BLOCK
    seen = (first.amin(1, keepdim=True) < right) & (end.amax(1, keepdim=True) > left)
    wholly = (first.amax(1, keepdim=True) <= left) & (end.amin(1, keepdim=True) >= right)
    return seen & ~wholly, wholly
