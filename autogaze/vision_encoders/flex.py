"""Packed attention as one FlexAttention kernel, which skips the blocks of tokens that are not seen."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.utils.device import sent
from autogaze.vision_encoders.layout import TokenLayout, kept_by_layout

BLOCK = 128
"""Side of the blocks of tokens, each skipped or computed as a whole."""


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


def takes_width(width: int) -> bool:
    """Whether heads of `width` channels can be computed; before PyTorch 2.8 only powers of two."""
    from torch.nn.attention import flex_attention as module

    takes = getattr(module, "_supported_head_dim", None)  # gone where all are taken
    return takes is None or bool(takes(width))


@cache
def _kernel(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention as kernel

    if compiled:
        return torch.compile(kernel, dynamic=True)
    return kernel


@kept_by_layout
def _block_mask(layout: TokenLayout) -> Any:
    """The layout's BlockMask, made once for all layers and calls that have this layout."""
    from torch.nn.attention.flex_attention import BlockMask

    bounds = visible_bounds(layout)
    partly, wholly = visible_blocks(bounds)
    first, end = (sent(bounds[:, side].contiguous(), layout.device) for side in (0, 1))

    def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
        counts = blocks.sum(-1, dtype=torch.int32)
        # A stable sort of the flags puts the blocks that count first, ascending.
        order = blocks.int().sort(dim=-1, descending=True, stable=True).indices.int()
        return sent(counts[None, None], layout.device), sent(order[None, None], layout.device)

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
