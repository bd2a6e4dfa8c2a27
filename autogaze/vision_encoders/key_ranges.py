"""Packed attention by one kernel in which every token has its own range of keys, and nothing is copied.

FlexAttention skips the blocks of tokens that are not seen. Our own kernel (Triton, `triton_kernels.py`)
holds neighbouring tokens of several frames or clips in a block, where kernels for segments (`varlen.py`)
compute whole blocks of 128 queries per frame, of which a gazed frame fills a fifth.
"""

import logging
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from autogaze.utils.device import sent
from autogaze.utils.kernels import failure_of, power_of_two
from autogaze.vision_encoders.layout import TokenLayout, kept_by_layout
from autogaze.vision_encoders.varlen import capability

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


log = logging.getLogger(__name__)


def triton_attention(
    query: Float[Tensor, "H N D"],
    key: Float[Tensor, "H N D"],
    value: Float[Tensor, "H N D"],
    layout: TokenLayout,
    *,
    scale: float | None = None,
) -> Float[Tensor, "N H D"]:
    """Attention of packed tokens, without gradients.

    Args:
        query, key, value: float16 or bfloat16, of heads of 16, 24, ... 128 channels.
        scale: of the logits; None means 1 / sqrt(D).

    Raises:
        ImportError: Triton is not installed.
    """
    from autogaze.vision_encoders import triton_kernels

    query, key, value = (x if _is_readable(x) else x.contiguous() for x in (query, key, value))
    num_heads, num_tokens, width = query.shape
    out = query.new_empty(num_tokens, num_heads, width)
    options = launch_options(width)
    with torch.cuda.device_of(query):  # where Triton launches is the current device, not theirs
        triton_kernels.attend[(-(-num_tokens // options["ROWS"]), num_heads)](
            *(query, *query.stride()[:2], key, *key.stride()[:2], value, *value.stride()[:2]),
            *(out, _bounds(layout), num_tokens),
            (width**-0.5 if scale is None else scale) * math.log2(math.e),
            WIDTH=width,
            enable_fp_fusion=True,  # Triton warns where nothing is said
            **options,
        )
    return out


def launch_options(width: int) -> dict[str, int]:
    """Sizes of blocks, and warps, for heads of some channels."""
    first = 1 << (width.bit_length() - 1)
    rest = width - first
    rest = power_of_two(rest, 16) if rest else 0
    return {"FIRST": first, "REST": rest, "ROWS": 64, "KEYS": 64, "num_warps": 4, "num_stages": 3}


@kept_by_layout
def _bounds(layout: TokenLayout) -> Int[Tensor, "N 2"]:
    return sent(visible_bounds(layout).int().contiguous(), layout.device)


def _is_readable(heads: Float[Tensor, "H N D"]) -> bool:
    """Whether the kernel can read heads of multiples of 8 channels where they lie.

    It counts from the first token to the last in 32 bits.
    """
    head, token, channel = heads.stride()
    is_aligned = channel == 1 and not (head % 8 or token % 8 or heads.data_ptr() % 16)
    return is_aligned and heads.shape[1] * token < 2**31


@cache
def triton_failure(device: torch.device, dtype: torch.dtype, width: int) -> str:
    """Why the kernel cannot be used for heads on a device; nothing where it can.

    It is tried out on random tokens, and compared with SDPA.
    """

    def trial() -> str:
        if device.type == "cuda" and (major := capability(device)[0]) < 8:
            return f"it needs a GPU of compute capability 8.0, this one has {major}.x"
        right = _attends_as_sdpa(device, dtype, width)
        return "" if right else "its results differ from those of SDPA"

    failure = failure_of(trial)
    if failure:
        log.warning("packed attention takes other kernels than ours, which are slower: %s", failure)
    return failure


@torch.inference_mode()
def _attends_as_sdpa(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    layout = TokenLayout(((30, 70, 3), (1, 90, 9)), "block_causal", device)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, layout.num_tokens, 2, width, generator=generator)
    query, key, value = tokens.to(device, dtype).transpose(1, 2)
    found = triton_attention(query, key, value, layout).float().cpu()
    first, end = visible_bounds(layout).T[..., None]
    at = torch.arange(layout.num_tokens)
    seen = (at >= first) & (at < end)
    query, key, value = (x.float().cpu() for x in (query, key, value))
    wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(0, 1)
    return torch.allclose(found, wanted, rtol=0, atol=0.03)
