"""The gaze loop: autoregressive decoding, frame by frame and block by block.

In every frame the decoder is fed what it has not seen: the last block of the frame before, then
this frame's vision tokens. Its last hidden state proposes K patches and predicts the loss before
each of them. Patches are kept while that loss is above the stopping threshold, the block is fed,
and so on (AutoGaze, section 3.2).

What makes it fast: one preallocated cache; the last layer's output computed only for the token
that is read; the last block of a frame fed together with the next frame's vision tokens; padding
and finished rows not fed at all.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.kv_cache import Feed, new_kv_cache
from autogaze.models.autogaze.limits import FrameLimits, loss_left, stopped_slots
from autogaze.models.autogaze.sampling import FrameSampling, sample_block

ConvHistory = list[Tensor]
"""Streaming state of the vision stem: each block's last two input frames, (B, C, 2, h, w)."""


@dataclass(frozen=True)
class Slots:
    """Patches of B rows in the order they were proposed, k slots per row.

    Attributes:
        ids: (B, k) patch ids, undefined where not kept.
        kept: (B, k) True where the patch is gazed at, False in padding.
        losses: (B,) the loss predicted to be left in the frame (`limits.loss_left`).
        used: (1,) how many blocks some row needed, on the rows' device; slots behind them are
            padding that no row needs (`static_shapes.trimmed`). None: all of them.
        all_kept: whether the host knows that all are gazed at.
    """

    ids: Int[Tensor, "B k"]
    kept: Bool[Tensor, "B k"]
    losses: Float[Tensor, " B"] | None = None
    used: Int[Tensor, " 1"] | None = None
    all_kept: bool = False

    def first(self, count: int) -> "Slots":
        """The first so many slots, or all that there are."""
        return Slots(self.ids[:, :count], self.kept[:, :count], self.losses)


class GazeState:
    """Gazing at B rows of frames: the loop over a frame's blocks, and its state between frames.

    Args:
        decoder: the decoder with fused weights.
        num_rows: B.
        capacity: tokens per row that the cache is allocated for; it grows when full.
        decode_positions: see `AutoGazeConfig`.

    Attributes:
        cache: keys and values of all tokens fed so far.
        unfed_ids: per row the ids gazed at that have not been fed yet.
        history: state of the vision stem; None before the first frame.
    """

    def __init__(
        self, decoder: FusedDecoder, num_rows: int, capacity: int, decode_positions: str
    ) -> None:
        config, like = decoder.config, decoder.layers[0].qkv
        self.decoder = decoder
        self.num_rows = num_rows
        self.sequential = decode_positions == "sequential"
        self.cache = new_kv_cache(
            config.num_hidden_layers,
            num_rows,
            config.num_key_value_heads,
            config.head_dim,
            capacity,
            like,
        )
        self.unfed_ids = [torch.empty(0, dtype=torch.long, device=like.device)] * num_rows
        self.history: ConvHistory | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens in the cache, per row."""
        return self.cache.lengths

    def gaze_frame(
        self,
        vision_tokens: Float[Tensor, "B tokens C"],
        limits: FrameLimits,
        sampling: FrameSampling,
    ) -> Slots:
        """Gaze at the next frame; slots are padded where rows stop before others.

        A row stops at its cap, or with the first block in which a slot's predicted loss reaches
        the threshold (`limits.stopped_slots`).
        """
        V, K = self.decoder.config.vocab_size - 1, self.decoder.config.num_multi_token_pred
        hidden, prefill_ends = self._prefill(vision_tokens)  # (B, C)
        taken = torch.zeros(self.num_rows, V, dtype=torch.bool, device=hidden.device)
        unfinished = torch.ones(self.num_rows, 1, dtype=torch.bool, device=hidden.device)
        active = list(range(self.num_rows))
        remaining = list(limits.caps)  # patches that each row may still take
        blocks: list[Slots] = []
        predicted = torch.zeros(self.num_rows, device=hidden.device)
        while active:
            size = min(max(remaining), K)
            logits, losses = self.decoder.heads(hidden)  # (B, K, V + 1), (B, K)
            ids = sample_block(logits[:, :size, :V], taken, sampling)  # (B, size)
            kept, stopped = unfinished.expand(-1, size), None
            budgets = torch.tensor(remaining, device=hidden.device)[:, None]
            decides = unfinished & (budgets > 0)
            if min(remaining) < size:  # some rows' caps end inside this block
                kept = kept & (torch.arange(size, device=hidden.device) < budgets)
            if limits.threshold is not None:
                stopped = stopped_slots(losses[:, :size], limits.threshold, first_block=not blocks)
                kept = kept & ~stopped
                unfinished = kept.all(1, keepdim=True)
            predicted = torch.where(decides[:, 0], loss_left(losses, budgets, stopped), predicted)
            blocks.append(Slots(ids, kept))
            active = self._append(blocks[-1], remaining, active, stops=limits.threshold is not None)
            remaining = [max(0, count - size) for count in remaining]
            if active:
                hidden = self._feed_block(ids, active, prefill_ends, hidden)
        return Slots(
            torch.cat([block.ids for block in blocks], 1),
            torch.cat([block.kept for block in blocks], 1),
            predicted,
        )

    def _append(
        self, block: Slots, remaining: list[int], active: list[int], *, stops: bool
    ) -> list[int]:
        """Queue the active rows' patches for the next feed; returns the rows that are unfinished.

        Where rows can stop by loss this waits for the device, once per block; nothing else in
        the loop does.

        Args:
            remaining: patches that each row might take before this block.
        """
        size = block.ids.shape[1]
        if stops:
            kept = block.kept.tolist()
            for row in active:
                slots = [slot for slot, real in enumerate(kept[row]) if real]
                self.unfed_ids[row] = block.ids[row, slots]
            active = [row for row in active if all(kept[row])]
        else:
            for row in active:
                self.unfed_ids[row] = block.ids[row, : remaining[row]]
        return [row for row in active if remaining[row] > size]

    def _prefill(
        self, vision_tokens: Float[Tensor, "B tokens C"]
    ) -> tuple[Float[Tensor, "B C"], list[int]]:
        """Feed the unfed ids and the frame; the last hidden state and its position, per row."""
        num_tokens = vision_tokens.shape[1]
        parts = []
        for ids, frame in zip(self.unfed_ids, vision_tokens, strict=True):
            parts += [self.decoder.embed(ids), frame]
        counts = tuple(len(ids) + num_tokens for ids in self.unfed_ids)
        starts = self.cache.lengths
        ends = [start + count - 1 for start, count in zip(starts, counts, strict=True)]
        positions = [torch.arange(start, end + 1) for start, end in zip(starts, ends, strict=True)]
        self.unfed_ids = [ids[:0] for ids in self.unfed_ids]
        feed = Feed(tuple(range(self.num_rows)), counts)
        return self._feed(torch.cat(parts), torch.cat(positions), feed), ends

    def _feed_block(
        self,
        ids: Int[Tensor, "B k"],
        active: list[int],
        prefill_ends: list[int],
        hidden: Float[Tensor, "B C"],
    ) -> Float[Tensor, "B C"]:
        """Feed a block to the active rows; the hidden states of the others stay as they are."""
        size = ids.shape[1]
        starts = [
            self.cache.lengths[row] if self.sequential else prefill_ends[row] - size + 1
            for row in active
        ]
        positions = torch.tensor(starts)[:, None] + torch.arange(size)  # (active, k)
        for row in active:
            self.unfed_ids[row] = self.unfed_ids[row][:0]
        everyone = len(active) == self.num_rows
        fed = ids if everyone else ids[active]
        tokens = self.decoder.embed(fed.flatten())
        feed = Feed(tuple(active), (size,) * len(active))
        updated = self._feed(tokens, positions.flatten(), feed)  # (active, C)
        if everyone:
            return updated
        return hidden.index_copy(0, torch.tensor(active, device=hidden.device), updated)

    def _feed(
        self, x: Float[Tensor, "N C"], positions: Int[Tensor, " N"], feed: Feed
    ) -> Float[Tensor, "R C"]:
        """Run packed tokens through the decoder; the final hidden state of each fed row's last token."""
        self.cache.reserve(feed)
        rotation = self.decoder.rotations(positions.to(x.device))
        *layers, last_layer = enumerate(self.decoder.layers)
        for index, layer in layers:
            queries, keys_values = layer.project(x, rotation)
            self.cache.write(index, feed, keys_values)
            x = layer.finish(x, self.cache.attend(index, feed, queries))
        # Of the last layer only each row's last token is read; the others leave keys and values.
        index, layer = last_layer
        last = feed.last().to(x.device)
        queries, keys_values = layer.project_last(x, rotation, last)
        self.cache.write(index, feed, keys_values)
        attended = self.cache.attend(index, feed, queries, last_only=True)
        x = layer.finish(x[last], attended)
        self.cache.advance(feed)
        return self.decoder.norm(x)
