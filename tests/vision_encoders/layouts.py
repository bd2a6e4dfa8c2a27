"""Layouts drawn at random, and the plain reading of who sees whom in them."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from autogaze.vision_encoders.layout import ATTENTION_TYPES, TokenLayout

CPU = torch.device("cpu")


@st.composite
def layouts(draw, attn_type=None, most=7, prefix=None, clips=4, frames=4):
    """Any packed sequence with at least one token: frames of any length, none included."""
    T = draw(st.integers(1, frames))
    clip = st.tuples(*[st.integers(0, most)] * T)
    lengths = draw(st.lists(clip, min_size=1, max_size=clips).map(tuple))
    num_prefix = draw(st.integers(0, 3)) if prefix is None else prefix
    if not num_prefix and not sum(map(sum, lengths)):
        lengths = ((1, *lengths[0][1:]), *lengths[1:])
    kind = draw(st.sampled_from(ATTENTION_TYPES)) if attn_type is None else attn_type
    return TokenLayout(lengths, kind, CPU, num_prefix)


def tokens_of(layout: TokenLayout) -> list[tuple[int, int]]:
    """(clip, frame) of every token, in the order of the sequence."""
    return [
        (clip, frame)
        for clip, counts in enumerate(layout.lengths)
        for frame, count in enumerate(counts)
        for _ in range(count + layout.num_prefix)
    ]


def dense_mask(layout: TokenLayout) -> Tensor:
    """(N, N) True where the token of the row sees that of the column, pair by pair."""
    tokens = tokens_of(layout)

    def sees(q: int, k: int) -> bool:
        (clip, frame), (other_clip, other_frame) = tokens[q], tokens[k]
        if clip != other_clip:
            return False
        return {
            "block_causal": other_frame <= frame,
            "causal": k <= q,
            "bidirectional": True,
            "frame_independent": other_frame == frame,
        }[layout.attn_type]

    N = len(tokens)
    return torch.tensor([[sees(q, k) for k in range(N)] for q in range(N)]).view(N, N)


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None = None
) -> Tensor:
    """softmax(q k^T scale + mask) v, written out: (H, N, D) each -> (N, H, D)."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query @ key.transpose(1, 2) * scale).masked_fill(~mask, float("-inf"))
    return (logits.softmax(-1) @ value).transpose(0, 1)


def random_qkv(num_tokens: int, heads: int = 2, size: int = 8, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, heads, num_tokens, size, generator=generator).unbind(0)
