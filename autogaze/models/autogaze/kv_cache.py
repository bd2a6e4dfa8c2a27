"""KV cache of ragged rows: preallocated, written in place, read through views.

Every row has its own length: padding never enters the cache, and finished rows are not fed.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Feed:
    """Layout of new tokens for some rows, packed row after row without padding.

    Args:
        rows: indices of the rows that are fed, ascending.
        counts: new tokens of each of them, at least 1.
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

    def causal_mask(self, count: int, past: int, like: Tensor) -> Tensor | None:
        """(count, past + count) additive mask, causal among the new tokens; None for one token."""
        if count == 1:
            return None
        if (count, past) not in self._masks:  # the same for all layers
            mask = like.new_zeros(count, past + count)
            mask[:, past:] = like.new_full((count, count), float("-inf")).triu_(1)
            self._masks[count, past] = mask
        return self._masks[count, past]


class KVCache:
    """Keys and values of every layer for B rows of up to `capacity` tokens.

    Attributes:
        keys_values: (layers, B, 2 * kv heads, capacity, D), the keys' heads before the values'.
        lengths: tokens in each row, on the host.
        multiple: the capacity is a multiple of this.
    """

    multiple: ClassVar[int] = 1

    def __init__(
        self, layers: int, rows: int, kv_heads: int, head_dim: int, capacity: int, like: Tensor
    ) -> None:
        capacity = self._rounded(capacity)
        with torch.inference_mode(False):  # so that every mode may write it
            self.keys_values = torch.empty(
                *(layers, rows, 2 * kv_heads, capacity, head_dim),
                dtype=like.dtype,
                device=like.device,
            )
        self.lengths = [0] * rows

    @property
    def num_rows(self) -> int:
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        return self.keys_values.shape[3]

    def reserve(self, feed: Feed) -> None:
        """Make room for `feed`; the capacity doubles when it runs out, in long streams only."""
        needed = max(self.lengths[row] + n for row, n in zip(feed.rows, feed.counts, strict=True))
        if needed > self.capacity:
            extra = self._rounded(max(needed, 2 * self.capacity)) - self.capacity
            shape = (*self.keys_values.shape[:3], extra, self.keys_values.shape[4])
            with torch.inference_mode(False), torch.no_grad():
                room = self.keys_values.new_empty(shape)
                self.keys_values = torch.cat([self.keys_values, room], dim=3)

    def write(self, layer: int, feed: Feed, keys_values: Float[Tensor, "N KV D"]) -> None:
        """Write the new tokens' keys and values behind each row's cached ones."""
        if self._aligned(feed):
            start, count = self.lengths[0], feed.counts[0]
            packed = keys_values.unflatten(0, (-1, count)).transpose(1, 2)  # (B, KV, count, D)
            self.keys_values[layer, :, :, start : start + count] = packed
            return
        for row, new in zip(feed.rows, keys_values.split(feed.counts), strict=True):
            start = self.lengths[row]
            self.keys_values[layer, row, :, start : start + len(new)] = new.transpose(0, 1)

    def attend(
        self, layer: int, feed: Feed, queries: Float[Tensor, "Q H D"], *, last_only: bool = False
    ) -> Float[Tensor, "Q HD"]:
        """Attention of new tokens over their own row; their keys must have been written.

        Args:
            queries: scaled by 1 / sqrt(D), of all new tokens.
            last_only: of every fed row's last token only.
        """
        counts = (1,) * len(feed.rows) if last_only else feed.counts
        if self._aligned(feed):  # one batched call
            rows, lengths = [slice(None)], [self.lengths[0] + feed.counts[0]]
            parts = [queries]
        else:  # one call per row: no mask over padding
            rows = [slice(row, row + 1) for row in feed.rows]
            lengths = [self.lengths[r] + n for r, n in zip(feed.rows, feed.counts, strict=True)]
            parts = list(queries.split(counts))
        attended = []
        for some, length, part, count in zip(rows, lengths, parts, counts, strict=False):
            q = part.unflatten(0, (-1, count)).transpose(1, 2)  # (rows, H, count, D)
            k, v = self.keys_values[layer, some, :, :length].chunk(2, dim=1)
            mask = feed.causal_mask(count, length - count, q)
            gqa = q.shape[1] != k.shape[1]
            x = F.scaled_dot_product_attention(q, k, v, mask, scale=1.0, enable_gqa=gqa)
            attended.append(x.transpose(1, 2).flatten(2).flatten(0, 1))  # (rows * count, H D)
        return torch.cat(attended)

    def advance(self, feed: Feed) -> None:
        """Lengthen the fed rows, once all layers have been written."""
        for row, count in zip(feed.rows, feed.counts, strict=True):
            self.lengths[row] += count

    def _aligned(self, feed: Feed) -> bool:
        """Whether all rows are fed equally many tokens and have the same length."""
        everyone = len(feed.rows) == self.num_rows
        return everyone and len(set(feed.counts)) == 1 and len(set(self.lengths)) == 1

    def _rounded(self, capacity: int) -> int:
        return -(-capacity // self.multiple) * self.multiple
