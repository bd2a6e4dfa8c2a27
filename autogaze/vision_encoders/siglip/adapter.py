"""SigLIP and SigLIP2, of fixed resolution and of native aspect ratio (NaFlex)."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from autogaze.utils.device import sent
from autogaze.utils.normalization import SIGLIP
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.layout import TokenLayout, kept_by_layout


class SiglipAdapter(EncoderAdapter):
    """SigLIP and fixed-resolution SigLIP2: no class token, an attention-pooling head.

    Positions of every scale are interpolated from the model's own table (`EncoderAdapter.positions`).
    """

    statistics = SIGLIP
    asked_to_interpolate = True

    def leave(self, tokens: Float[Tensor, "one N C"]) -> Float[Tensor, "one N C"]:
        return self.model.post_layernorm(tokens)

    def pool(
        self, tokens: Float[Tensor, "N C"], layout: TokenLayout
    ) -> Float[Tensor, "frames C"] | None:
        return pool_frames(self.model.head, tokens, layout) if self.model.use_head else None


class Siglip2Adapter(SiglipAdapter):
    """SigLIP2 NaFlex: patches come flattened, positions are resized with antialiasing."""

    @property
    def image_size(self) -> int:
        """Side of the square with as many patches as its position table."""
        return round(self.config.num_patches**0.5) * self.patch_size

    def project(self, patches: Float[Tensor, "N 3 p p"]) -> Float[Tensor, "N C"]:
        return self.projection(patches.permute(0, 2, 3, 1).flatten(1))

    def positions(self, grid: int) -> Float[Tensor, "cells C"]:
        # NaFlex has no `interpolate_pos_encoding`; its table is resized for every image.
        embeddings = self.model.embeddings
        side = embeddings.position_embedding_size
        table = embeddings.position_embedding.weight.unflatten(0, (side, side))
        shape = torch.tensor([[grid, grid]])
        return embeddings.resize_positional_embeddings(table, shape, max_length=grid * grid)[0]

    def dense(self, frames: Float[Tensor, "F 3 S S"]) -> Any:
        # Patches instead of images, colours last; no patch is padding.
        p, F = self.patch_size, len(frames)
        grid = frames.shape[-1] // p
        covered = frames[..., : grid * p, : grid * p]
        cells = covered.unflatten(-1, (grid, p)).unflatten(-3, (grid, p))  # (F, 3, g, p, g, p)
        flat = cells.permute(0, 2, 4, 3, 5, 1).reshape(F, grid * grid, -1)
        real = torch.ones(F, grid * grid, dtype=torch.long, device=frames.device)
        return self.model(flat, real, torch.tensor([[grid, grid]] * F, device=frames.device))


def pool_frames(
    head: Any, tokens: Float[Tensor, "N C"], layout: TokenLayout
) -> Float[Tensor, "frames C"]:
    """The head's feature of every frame; anything finite of a frame without tokens.

    Frames of equal lengths are a batch, as they are for the untouched model. Others are padded to the
    longest, and their attention does not see the padding: a call for each length would cost a GPU
    fifteen launches, and there may be as many lengths as frames.

    Args:
        head: `SiglipMultiheadAttentionPoolingHead`, or that of SigLIP2.
    """
    lengths = layout.frame_lengths
    if not layout.num_tokens:
        return tokens.new_zeros(len(lengths), tokens.shape[-1])
    attention, width = head.attention, tokens.shape[-1]
    if type(attention).forward is not nn.MultiheadAttention.forward:  # wrapped, as by LoRA
        return _pool_by_length(head, tokens, lengths)
    # nn.MultiheadAttention reads the weight of `out_proj` without calling it, past an adapter of LoRA.
    is_plain = type(attention.out_proj).forward is nn.Linear.forward
    if is_plain and len(set(lengths)) == 1:
        return head(tokens.unflatten(0, (len(lengths), lengths[0])))  # type: ignore[no-any-return]
    index, is_seen = _padded(layout)
    weights = attention.in_proj_weight.split([width, 2 * width])
    biases = attention.in_proj_bias.split([width, 2 * width])
    probes = head.probe.expand(len(lengths), -1, -1)  # (frames, 1, C)
    # Padded are keys and values, not what they are projected from, which is most of the work.
    queries = F.linear(probes, weights[0], biases[0]).unflatten(-1, (attention.num_heads, -1))
    projected = F.linear(tokens, weights[1], biases[1])[index]  # (frames, longest, 2 C)
    keys, values = projected.unflatten(-1, (2, attention.num_heads, -1)).transpose(1, 3).unbind(2)
    pooled = F.scaled_dot_product_attention(
        queries.transpose(1, 2), keys, values, attn_mask=is_seen
    )
    pooled = attention.out_proj(pooled.transpose(1, 2).flatten(2))
    pooled = pooled + head.mlp(head.layernorm(pooled))
    return pooled[:, 0]  # type: ignore[no-any-return]


def _pool_by_length(
    head: Any, tokens: Float[Tensor, "N C"], lengths: Sequence[int]
) -> Float[Tensor, "frames C"]:
    """`pool_frames` by calling the head itself, once per length of frames."""
    rows = tokens.split(list(lengths))
    pooled: dict[int, Tensor] = {}
    for length in set(lengths) - {0}:
        frames = [frame for frame, count in enumerate(lengths) if count == length]
        pooled |= zip(frames, head(torch.stack([rows[frame] for frame in frames])), strict=True)
    empty = torch.zeros_like(next(iter(pooled.values())))
    return torch.stack([pooled.get(frame, empty) for frame in range(len(lengths))])


@kept_by_layout
def _padded(
    layout: TokenLayout,
) -> tuple[Int[Tensor, "frames longest"], Bool[Tensor, "frames 1 1 longest"]]:
    """The tokens of every frame, some token where there is no other, and where attention sees them."""
    lengths = layout.frame_lengths
    starts = accumulate(lengths, initial=0)
    spans = [torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=False)]
    index = pad_sequence(spans, batch_first=True)
    counts = torch.tensor(lengths)[:, None, None, None].clamp(min=1)  # seeing nothing gives NaN
    is_seen = torch.arange(index.shape[1]) < counts
    return sent(index, layout.device), sent(is_seen, layout.device)
