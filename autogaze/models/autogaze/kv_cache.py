"""KV cache of ragged rows: preallocated, written in place, read through views.

Every row has its own length: padding never enters the cache, and finished rows are not fed.
`new_kv_cache` gives the cache for the native attention kernel for CPUs (`attention.c`, compiled on the
machine that runs it), or for PyTorch's attention where that is not available.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from autogaze.errors import SelectorError
from autogaze.utils.kernels import (
    Kernel,
    NotBuiltError,
    built_kernel,
    c_struct,
    load_library,
    parallel_address,
    suitable_kernel,
)


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


SWITCH = "AUTOGAZE_ATTENTION"
"""Environment variable: "torch", "native" (an error where it cannot be had) or not set."""

SOURCE = Path(__file__).with_name("attention.c")

GROUP = 16
"""Keys that are adjacent in a cache: its capacity is a multiple of it."""


def new_kv_cache(
    layers: int, rows: int, kv_heads: int, head_dim: int, capacity: int, like: Shaped[Tensor, "..."]
) -> KVCache:
    """An empty cache: `NativeKVCache` where the native kernel is available, else `KVCache`."""
    library = attention_kernel(like, head_dim).library
    if library is None:
        return KVCache(layers, rows, kv_heads, head_dim, capacity, like)
    return NativeKVCache(layers, rows, kv_heads, head_dim, capacity, like, library=library)


def attention_kernel(like: Shaped[Tensor, "..."], head_dim: int) -> "Kernel[Library]":
    """What computes attention of tensors like this one: attention.c for this head dimension, or PyTorch.

    Raises:
        SelectorError: AUTOGAZE_ATTENTION has an unknown value, or asks for a kernel that is not
            available.
    """
    return suitable_kernel(SWITCH, _unsuitable(like, head_dim), lambda: _built(head_dim))


def _unsuitable(like: Tensor, head_dim: int) -> str | None:
    """Why the native kernel does not support such tensors; None where it does."""
    if like.device.type != "cpu" or like.dtype != torch.float32:
        return f"ours is for float32 on a CPU, not {like.dtype} on {like.device}"
    if torch.is_grad_enabled():
        return "ours has no gradients"
    if head_dim % 4 or head_dim > 256:
        return f"ours takes head dimensions 4, 8, ..., 256, not {head_dim}"
    return None


@cache
def _built(head_dim: int) -> "Kernel[Library]":
    return built_kernel(partial(_checked, head_dim), SOURCE, f"-DD={head_dim}")


def _checked(head_dim: int, path: Path) -> "Library":
    """The kernel; NotBuiltError unless results are right: compilers have bugs."""
    library = Library(path)
    count, past, capacity = 40, 300, 352
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(past + count, 4, head_dim, generator=generator)
    layer = torch.full((1, 2, capacity, head_dim), float("nan"))
    library.store(NativeFeed(library, layer, [0], [0], [past + count]), layer, tokens[:, 2:])
    queries = tokens[past:, :2] * head_dim**-0.5
    found = library.attend(NativeFeed(library, layer, [0], [past], [count]), layer, queries)
    expected = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        tokens[:, 2].expand(1, 2, -1, -1),
        tokens[:, 3].expand(1, 2, -1, -1),
        attn_mask=torch.ones(count, past + count, dtype=torch.bool).tril(past),
        scale=1.0,
    )
    if not torch.allclose(found, expected[0].transpose(0, 1).flatten(1), atol=1e-5):
        raise NotBuiltError("the compiled kernel gives wrong results")
    return library


class NativeKVCache(KVCache):
    """A `KVCache` for the native kernel: rows of any lengths are one call.

    Keys are stored in groups of 16, channels outermost (see attention.c).
    """

    multiple = GROUP

    def __init__(
        self,
        layers: int,
        rows: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        like: Tensor,
        *,
        library: "Library",
    ) -> None:
        super().__init__(layers, rows, kv_heads, head_dim, capacity, like)
        self._library = library
        self._feeds: tuple[Feed, NativeFeed, NativeFeed] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to this process: the compiled kernel, and addresses."""
        return {**vars(self), "_library": None, "_feeds": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raises SelectorError where the kernel, whose order the keys are in, cannot be had."""
        vars(self).update(state)
        kernel = _built(self.keys_values.shape[-1])
        if kernel.library is None:
            raise SelectorError(
                f"this stream was made with the native attention kernel: {kernel.why}; make it "
                f"with {SWITCH}=torch to continue it here"
            )
        self._library = kernel.library

    def reserve(self, feed: Feed) -> None:
        super().reserve(feed)
        self._feeds = None  # refers to the old capacity and lengths

    def advance(self, feed: Feed) -> None:
        super().advance(feed)
        self._feeds = None

    def write(self, layer: int, feed: Feed, keys_values: Float[Tensor, "N KV D"]) -> None:
        self._library.store(self._native(feed)[0], self.keys_values[layer], keys_values)

    def attend(
        self, layer: int, feed: Feed, queries: Float[Tensor, "Q H D"], *, last_only: bool = False
    ) -> Float[Tensor, "Q HD"]:
        native = self._native(feed)[1 if last_only else 0]
        return self._library.attend(native, self.keys_values[layer], queries)

    def _native(self, feed: Feed) -> "tuple[NativeFeed, NativeFeed]":
        """Native feeds of all new tokens and of each row's last one only, shared by all layers."""
        if self._feeds is None or self._feeds[0] is not feed:
            past = [self.lengths[row] for row in feed.rows]
            before_last = [length + n - 1 for length, n in zip(past, feed.counts, strict=True)]
            layer, ones = self.keys_values[0], (1,) * len(past)
            self._feeds = (
                feed,
                NativeFeed(self._library, layer, feed.rows, past, feed.counts),
                NativeFeed(self._library, layer, feed.rows, before_last, ones),
            )
        return self._feeds[1:]


_Feed = c_struct(  # of attention.c
    """
    pointer parallel
    int32 threads kv_heads num_rows
    int64 row_stride head_stride
    pointer row past count first
    """
)


class NativeFeed:
    """A `Feed` in the form that the kernel reads.

    Args:
        layer: of the cache, (B, 2 * kv heads, capacity, D), contiguous in each row.
        rows, past, counts: per fed row its index, tokens cached before, new tokens.
    """

    def __init__(
        self,
        library: "Library",
        layer: Float[Tensor, "B KV capacity D"],
        rows: Sequence[int],
        past: Sequence[int],
        counts: Sequence[int],
    ) -> None:
        firsts = [sum(counts[:index]) for index in range(len(counts))]
        numbers = (*rows, *past, *counts, *firsts)
        self._numbers = (ctypes.c_int64 * len(numbers))(*numbers)
        start, step = ctypes.addressof(self._numbers), 8 * len(rows)
        self._feed = _Feed(
            library.parallel,
            torch.get_num_threads(),
            layer.shape[1] // 2,
            len(rows),
            layer.stride(0),
            layer.stride(1),
            *(start + step * index for index in range(4)),
        )
        self.address = ctypes.addressof(self._feed)


class Library:
    """The compiled kernel for one head dimension.

    Raises:
        NotBuiltError: it cannot be loaded, or PyTorch's threads cannot be had.
    """

    def __init__(self, path: Path) -> None:
        library = load_library(path)
        self.parallel = parallel_address()
        self._attend, self._store = library.attend, library.store
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        self._attend.argtypes = [pointer, pointer, pointer, integer, ctypes.c_int32, pointer]
        self._store.argtypes = [pointer, pointer, pointer, integer]
        self._attend.restype = self._store.restype = None

    def attend(
        self,
        feed: NativeFeed,
        layer: Float[Tensor, "B KV capacity D"],
        queries: Float[Tensor, "N H D"],
    ) -> Float[Tensor, "N HD"]:
        """Causal attention of new tokens, already stored, over their rows; queries are scaled."""
        attended = queries.new_empty(queries.shape[0], queries.shape[1] * queries.shape[2])
        queries = _heads_together(queries)
        self._attend(
            feed.address,
            layer.data_ptr(),
            queries.data_ptr(),
            queries.stride(0),
            queries.shape[1],
            attended.data_ptr(),
        )
        return attended

    def store(
        self,
        feed: NativeFeed,
        layer: Float[Tensor, "B KV capacity D"],
        keys_values: Float[Tensor, "N KV D"],
    ) -> None:
        """Write the new tokens' keys and values into a layer of the cache."""
        keys_values = _heads_together(keys_values)
        self._store(feed.address, layer.data_ptr(), keys_values.data_ptr(), keys_values.stride(0))


def _heads_together(x: Float[Tensor, "N H D"]) -> Float[Tensor, "N H D"]:
    """`x` with the heads of each token contiguous."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
