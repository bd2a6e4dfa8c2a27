"""Attention by scaled_dot_product_attention: one call for all segments of equal length.

No mask is ever made. Frames and clips of equal length form a batch; block-causal
attention is a call a frame, whose keys simply end where the frame does.
"""

from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from autogaze.vision_encoders.layout import TokenLayout


def grouped_attention(
    query: Float[Tensor, "H N D"],
    key: Float[Tensor, "H N D"],
    value: Float[Tensor, "H N D"],
    layout: TokenLayout,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "N H D"]:
    """Attention of packed tokens; `scale` None means 1 / sqrt(D)."""

    def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        causal = layout.attn_type == "causal"
        return F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=causal, scale=scale
        )

    attended = []
    for group in layout.groups:
        # (H, G, n, D) -> (G, H, n, D)
        q, k, v = (group.gather(x).transpose(0, 1) for x in (query, key, value))
        if layout.attn_type == "block_causal":
            edges = list(accumulate(group.frames, initial=0))
            spans = [(start, stop) for start, stop in pairwise(edges) if start < stop]
            parts = [sdpa(q[:, :, a:b], k[:, :, :b], v[:, :, :b]) for a, b in spans]
            outcome = torch.cat(parts, dim=2)
        else:
            outcome = sdpa(q, k, v)
        attended.append(outcome.transpose(1, 2).flatten(0, 1))  # (G * n, H, D)
    if len(attended) == 1:
        return attended[0]  # one group is the whole sequence, in its order
    out = torch.cat(attended) if attended else query.transpose(0, 1)
    return out[layout.from_groups]
