"""The KV cache: preallocated once, written in place, read through views.

Rows are ragged. Padding never enters the cache, every row has its own length, and
rows that have finished a frame are simply not fed, so no work is spent on either.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Feed:
    """New tokens for some rows, packed row after row without padding.

    Args:
        rows: the rows that are fed, ascending.
        counts: tokens of each of them, at least 1.
    """

    rows: tuple[int, ...]
    counts: tuple[int, ...]
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def num_tokens(self) -> int:
        return sum(self.counts)

    def last(self) -> Tensor:
        """Index of every row's last token among the packed ones."""
        return torch.tensor(self.counts).cumsum(0) - 1

    def causal_mask(self, count: int, length: int, like: Tensor) -> Tensor | None:
        """(count, length + count) additive mask: new tokens see the past and not their future."""
        if count == 1:
            return None
        if (count, length) not in self._masks:
            mask = like.new_zeros(count, length + count)
            mask[:, length:] = like.new_full((count, count), float("-inf")).triu_(1)
            self._masks[count, length] = mask
        return self._masks[count, length]


class KVCache:
    """Keys and values of every layer for B rows of up to `capacity` tokens.

    Attributes:
        held: (layers, B, 2 * kv heads, capacity, D), the keys' heads before the values'.
        lengths: tokens held a row, on the host.
        granule: what the capacity is a multiple of.
    """

    granule: ClassVar[int] = 1

    def __init__(
        self, layers: int, rows: int, kv_heads: int, head_dim: int, capacity: int, like: Tensor
    ) -> None:
        capacity = self._rounded(capacity)
        self.held = like.new_empty(layers, rows, 2 * kv_heads, capacity, head_dim)
        self.lengths = [0] * rows

    @property
    def num_rows(self) -> int:
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        return self.held.shape[3]

    def reserve(self, feed: Feed) -> None:
        """Make room for `feed`; the capacity doubles when it runs out (long streams only)."""
        needed = max(self.lengths[row] + n for row, n in zip(feed.rows, feed.counts, strict=True))
        if needed > self.capacity:
            extra = self._rounded(max(needed, 2 * self.capacity)) - self.capacity
            shape = (*self.held.shape[:3], extra, self.held.shape[4])
            self.held = torch.cat([self.held, self.held.new_empty(shape)], dim=3)

    def aligned(self, feed: Feed) -> bool:
        """Whether all rows are fed alike and stand at the same length: one batched call."""
        return (
            len(feed.rows) == self.num_rows
            and len(set(feed.counts)) == 1
            and len(set(self.lengths)) == 1
        )

    def write(self, layer: int, feed: Feed, keys_values: Float[Tensor, "N KV D"]) -> None:
        """Put the new tokens' keys and values behind what each row holds (see `advance`)."""
        if self.aligned(feed):
            start, count = self.lengths[0], feed.counts[0]
            packed = keys_values.unflatten(0, (-1, count)).transpose(1, 2)
            self.held[layer, :, :, start : start + count] = packed
            return
        for row, new in zip(feed.rows, keys_values.split(feed.counts), strict=True):
            start = self.lengths[row]
            self.held[layer, row, :, start : start + len(new)] = new.transpose(0, 1)

    def advance(self, feed: Feed) -> None:
        """Count the fed tokens in, once all layers have written them."""
        for row, count in zip(feed.rows, feed.counts, strict=True):
            self.lengths[row] += count

    def attend(
        self, layer: int, feed: Feed, queries: Float[Tensor, "N H D"]
    ) -> Float[Tensor, "N HD"]:
        """Attention of all new tokens over their row; queries come scaled."""
        if self.aligned(feed):
            count, length = feed.counts[0], self.lengths[0]
            mask = feed.causal_mask(count, length, queries)
            split = queries.unflatten(0, (-1, count)).transpose(1, 2)
            attended = self._sdpa(layer, slice(None), length + count, split, mask)
            return attended.transpose(1, 2).flatten(2).flatten(0, 1)
        pieces = []
        for row, part in zip(feed.rows, queries.split(feed.counts), strict=True):
            length, count = self.lengths[row], len(part)
            mask = feed.causal_mask(count, length, queries)
            split = part.transpose(0, 1)[None]
            attended = self._sdpa(layer, slice(row, row + 1), length + count, split, mask)
            pieces.append(attended[0].transpose(0, 1).flatten(1))
        return torch.cat(pieces)

    def attend_last(
        self, layer: int, feed: Feed, queries: Float[Tensor, "R H D"]
    ) -> Float[Tensor, "R HD"]:
        """Attention of every fed row's last token only; queries come scaled."""
        if self.aligned(feed):
            length = self.lengths[0] + feed.counts[0]
            return self._sdpa(layer, slice(None), length, queries[:, :, None], None).flatten(1)
        pieces = [
            self._sdpa(
                layer, slice(row, row + 1), self.lengths[row] + count, query[None, :, None], None
            )
            for row, count, query in zip(feed.rows, feed.counts, queries, strict=True)
        ]
        return torch.cat(pieces).flatten(1)

    def _rounded(self, capacity: int) -> int:
        return -(-capacity // self.granule) * self.granule

    def _sdpa(
        self, layer: int, rows: slice, length: int, queries: Tensor, mask: Tensor | None
    ) -> Tensor:
        keys, values = self.held[layer, rows, :, :length].chunk(2, dim=1)
        return F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            scale=1.0,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )
