"""Gazing with shapes that never change, so that a GPU can replay it as CUDA graphs.

The loop of `decoding.py` feeds rows of different lengths, which the host must know. Here every
count stays on the device: rows are padded, padding is written to a slot that attention never
reads, and attention reads a fixed window through a mask. That costs arithmetic and saves kernel
launches, which bound a loop of thousands of small operations. The gazes are the same.

The host waits for one flag per block: whether any row goes on.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.decoding import Slots
from autogaze.models.autogaze.gaze_model import ConvHistory
from autogaze.models.autogaze.limits import FrameLimits, loss_left, stopped_slots
from autogaze.models.autogaze.sampling import FrameSampling, sample_block

WINDOW = 512
"""Attention windows are multiples of so many tokens; each has its own graph."""


class StaticGazeState:
    """`GazeState` with tensors of fixed shape only.

    Args:
        decoder, num_rows, capacity, decode_positions: as of `GazeState`.
        num_tokens: vision tokens per frame.
        graphs: replay CUDA graphs instead of launching kernels one by one.
    """

    def __init__(
        self,
        decoder: FusedDecoder,
        num_rows: int,
        capacity: int,
        decode_positions: str,
        num_tokens: int,
        *,
        graphs: bool,
    ) -> None:
        config, like = decoder.config, decoder.lm_head
        self.decoder = decoder
        self.num_rows = num_rows
        self.sequential = decode_positions == "sequential"
        self.graphs = graphs
        self.block_size = K = config.num_multi_token_pred
        self.num_patches = V = config.vocab_size - 1
        self.longest = 0
        self.history: ConvHistory | None = None
        self._replays: dict[str, Callable[[], None] | None] = {}

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            with torch.inference_mode(False):  # so that every mode may write them
                return torch.zeros(*shape, dtype=dtype, device=like.device)

        layers, heads = config.num_hidden_layers, 2 * config.num_key_value_heads
        # The last slot of a row takes the padding; no window reaches it.
        self.cache = zeros(layers, num_rows, heads, capacity + 1, config.head_dim, dtype=like.dtype)
        self.cache_lengths = zeros(num_rows)
        self.prefill_ends = zeros(num_rows)
        self.vision = zeros(num_rows, num_tokens, config.hidden_size, dtype=like.dtype)
        self.hidden = zeros(num_rows, config.hidden_size, dtype=like.dtype)
        self.taken = zeros(num_rows, V, dtype=torch.bool)
        self.finished = zeros(num_rows, dtype=torch.bool)
        self.ids, self.unfed = zeros(num_rows, K), zeros(num_rows, K)
        self.kept = zeros(num_rows, K, dtype=torch.bool)
        self.unfed_valid = zeros(num_rows, K, dtype=torch.bool)
        self.left = zeros(num_rows, 1)
        self.predicted = zeros(num_rows, dtype=torch.float32)
        self.threshold = zeros(num_rows, 1, dtype=torch.float32)
        self.log_weights = zeros(num_rows, V, dtype=torch.float32)

    def __getstate__(self) -> dict[str, Any]:
        """All but the graphs, which read from this state's own addresses."""
        return {**vars(self), "_replays": {}}

    @property
    def capacity(self) -> int:
        return self.cache.shape[3] - 1

    @property
    def unfed_ids(self) -> list[Int[Tensor, " _"]]:
        """Ids gazed at that have not been fed yet, per row."""
        return [ids[valid] for ids, valid in zip(self.unfed, self.unfed_valid, strict=True)]

    @property
    def lengths(self) -> list[int]:
        """Tokens in the cache, per row."""
        return self.cache_lengths.tolist()

    def gaze_frame(
        self,
        vision_tokens: Float[Tensor, "B tokens C"],
        limits: FrameLimits,
        sampling: FrameSampling,
    ) -> Slots:
        """Gaze at the next frame; as `GazeState.gaze_frame`."""
        left = max(limits.caps)
        self._make_room(vision_tokens.shape[1] + left)
        self.vision.copy_(vision_tokens)
        alike = len(set(limits.caps)) == 1
        _put(self.left, left if alike else torch.tensor(limits.caps)[:, None])
        _put(self.threshold, float("-inf") if limits.threshold is None else limits.threshold)
        if sampling.log_weights is not None:  # graphs read from a fixed address
            self.log_weights.copy_(sampling.log_weights)
            sampling = replace(sampling, log_weights=self.log_weights)
        window = min(self.capacity, -(-self.longest // WINDOW) * WINDOW)

        self._run(f"prefill {window}", partial(self._prefill, window))
        ids: list[Tensor] = []
        kept: list[Tensor] = []
        while True:
            size = min(left, self.block_size)
            first = not ids
            if sampling.temperature == 0:
                propose = partial(self._propose, sampling, self.block_size, first=first)
                self._run(f"propose {'first' if first else 'later'}", propose)
            else:  # random numbers must be fresh, and no more of them drawn than are needed
                self._propose(sampling, size, first=first)
            ids.append(self.ids[:, :size].clone())
            kept.append(self.kept[:, :size].clone())
            left -= size
            if left == 0 or (limits.threshold is not None and bool(self.finished.all())):
                break
            self._run(f"feed {window}", partial(self._feed_block, window))
        return Slots(torch.cat(ids, 1), torch.cat(kept, 1), self.predicted.clone())

    def _make_room(self, tokens: int) -> None:
        self.longest += tokens  # an upper bound of every row's length, known without asking
        if self.longest > self.capacity:
            extra = max(self.longest, 2 * self.capacity) - self.capacity
            with torch.inference_mode(False), torch.no_grad():
                self.cache = F.pad(self.cache, (0, 0, 0, extra))
            self._replays.clear()  # graphs refer to the old tensor

    def _run(self, name: str, operations: Callable[[], None]) -> None:
        """Run eagerly the first time, record a graph the second time, replay it from then on."""
        if not self.graphs or name not in self._replays:
            operations()
            self._replays.setdefault(name, None)
            return
        replay = self._replays[name]
        if replay is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                operations()
            replay = self._replays[name] = graph.replay
        replay()

    # Recorded operations: they read and write the tensors above, in shapes known beforehand.

    def _prefill(self, window: int) -> None:
        """Feed the unfed ids of the frame before, and the frame."""
        tokens = torch.cat([self.decoder.embed_tokens(self.unfed), self.vision], 1)
        valid = F.pad(self.unfed_valid, (0, self.vision.shape[1]), value=True)
        positions = self.cache_lengths[:, None] + valid.cumsum(1) - 1
        self.hidden.copy_(self._feed(tokens, valid, positions, window))
        self.prefill_ends.copy_(self.cache_lengths - 1)
        self.unfed_valid.zero_()
        self.taken.zero_()
        self.finished.zero_()

    def _propose(self, sampling: FrameSampling, size: int, *, first: bool) -> None:
        """Sample the next block of `size` ids, and find which are kept and which rows finish."""
        logits, losses = self.decoder.heads(self.hidden)  # (B, K, V + 1), (B, K)
        ids = sample_block(logits[:, :size, : self.num_patches], self.taken, sampling)
        self.ids[:, :size].copy_(ids)
        within = torch.arange(self.block_size, device=self.left.device) < self.left  # (B, K)
        stopped = stopped_slots(losses, self.threshold, first_block=first) & within
        active = ~self.finished[:, None]
        left = loss_left(losses, self.left, stopped)
        self.predicted.copy_(torch.where(active[:, 0], left, self.predicted))
        self.kept.copy_(active & within & ~stopped)
        self.unfed.copy_(torch.where(active, self.ids, self.unfed))
        self.unfed_valid.copy_(torch.where(active, self.kept, self.unfed_valid))
        self.left.sub_(self.block_size)
        self.finished.logical_or_(stopped.any(1)).logical_or_(self.left[:, 0] <= 0)

    def _feed_block(self, window: int) -> None:
        """Feed the block to the rows that go on."""
        active = ~self.finished
        slots = torch.arange(self.block_size, device=self.left.device)
        starts = self.prefill_ends - self.block_size + 1
        if self.sequential:
            starts = self.cache_lengths
        valid = active[:, None].expand_as(self.ids)
        tokens = self.decoder.embed_tokens(self.ids)
        updated = self._feed(tokens, valid, starts[:, None] + slots, window)
        self.hidden.copy_(torch.where(active[:, None], updated, self.hidden))
        self.unfed_valid.logical_and_(~active[:, None])

    def _feed(
        self,
        tokens: Float[Tensor, "B n C"],
        valid: Bool[Tensor, "B n"],
        positions: Int[Tensor, "B n"],
        window: int,
    ) -> Float[Tensor, "B C"]:
        """Run tokens through the decoder; the final hidden state of each row's last token."""
        B, n, _ = tokens.shape
        places = self.cache_lengths[:, None] + valid.cumsum(1) - 1
        seen = torch.arange(window, device=places.device) <= places[..., None]  # (B, n, window)
        places = torch.where(valid, places, self.capacity)
        x = tokens.flatten(0, 1)  # (B * n, C)
        rotation = self.decoder.rotations(positions.flatten())
        for index, layer in enumerate(self.decoder.layers):
            queries, keys_values = layer.project(x, rotation)
            new = keys_values.unflatten(0, (B, n)).transpose(1, 2)  # (B, KV, n, D)
            self.cache[index].scatter_(2, places[:, None, :, None].expand_as(new), new)
            queries, mask = queries.unflatten(0, (B, n)).transpose(1, 2), seen  # (B, H, n, D)
            if index == len(self.decoder.layers) - 1:  # only the last token is read
                x, queries, mask = x.unflatten(0, (B, n))[:, -1], queries[:, :, -1:], seen[:, -1:]
            keys, values = self.cache[index, :, :, :window].chunk(2, dim=1)
            grouped = queries.shape[1] != keys.shape[1]
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask[:, None], scale=1.0, enable_gqa=grouped
            )
            x = layer.finish(x, attended.transpose(1, 2).flatten(2).flatten(0, 1))
        self.cache_lengths.add_(valid.sum(1))
        return self.decoder.norm(x)


def _put(place: Tensor, values: float | Tensor) -> None:
    """Copy one number for all rows, or one each; the former without waiting for the device."""
    if isinstance(values, Tensor):
        place.copy_(values)
    else:
        place.fill_(values)
