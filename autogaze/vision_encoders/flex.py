"""Attention by FlexAttention: one fused kernel for a whole ragged batch, for GPUs.

FlexAttention skips 128 x 128 blocks in which nobody sees anybody. Which blocks those
are follows from the lengths, so they are found on the host from N numbers; the usual
way evaluates the mask for every pair of tokens, the N x N that nobody wants.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.vision_encoders.layout import TokenLayout

BLOCK = 128
"""Side of the blocks that are skipped or computed as a whole."""


def flex_attention(
    query: Float[Tensor, "H N D"],
    key: Float[Tensor, "H N D"],
    value: Float[Tensor, "H N D"],
    layout: TokenLayout,
    *,
    scale: float | None = None,
    compiled: bool = True,
) -> Float[Tensor, "N H D"]:
    """Attention of packed tokens; `scale` None means 1 / sqrt(D)."""
    kernel = _compiled() if compiled else _kernel()
    out = kernel(query[None], key[None], value[None], block_mask=_mask(layout), scale=scale)
    return out[0].transpose(0, 1)


def visible_bounds(layout: TokenLayout) -> Int[Tensor, "N 2"]:
    """[first, end) of the keys that each token sees."""
    frames = torch.tensor(layout.frame_lengths)
    clips = torch.tensor([sum(clip) for clip in layout.clip_frames])
    frames_a_clip = torch.tensor([len(clip) for clip in layout.clip_frames])
    frame_end = frames.cumsum(0).repeat_interleave(frames)
    frame_first = frame_end - frames.repeat_interleave(frames)
    frame_of_token = torch.arange(len(frames)).repeat_interleave(frames)
    clip_of_token = torch.arange(len(clips)).repeat_interleave(frames_a_clip)[frame_of_token]
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
    """Blocks of keys that blocks of queries see in part, and those they see wholly."""
    missing = -len(bounds) % BLOCK
    padded = torch.cat([bounds, bounds[-1:].expand(missing, 2)]).unflatten(0, (-1, BLOCK))
    first, end = padded.unbind(-1)  # (blocks, BLOCK)
    left = torch.arange(len(padded)) * BLOCK
    right = left + BLOCK
    seen = (first.amin(1, keepdim=True) < right) & (end.amax(1, keepdim=True) > left)
    wholly = (first.amax(1, keepdim=True) <= left) & (end.amin(1, keepdim=True) >= right)
    return seen & ~wholly, wholly


@lru_cache(maxsize=4)
def _mask(layout: TokenLayout) -> Any:
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


def _kernel() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention as kernel

    return kernel


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(_kernel(), dynamic=True)
