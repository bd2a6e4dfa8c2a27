"""Gazing: the autoregressive loop, frame by frame and block by block.

Per frame the decoder is fed what it has not seen (the last block gazed in the frame
before, then this frame's vision tokens); its last hidden state proposes K patches
and predicts the loss before each of them. The block is kept where the loss is still
above the stopping threshold, fed, and so on (AutoGaze, section 3.2).

What makes it fast: one preallocated cache, the last layer's output computed for the one
token that is read, the last block of a frame riding along with the next frame's vision
tokens, padding and rows that have finished not fed at all.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.kv_cache import Feed
from autogaze.models.autogaze.limits import FrameLimits, stopped_slots
from autogaze.models.autogaze.native.attention import new_kv_cache
from autogaze.models.autogaze.sampling import FrameSampling, sample_block
from autogaze.models.autogaze.vision import ConvHistory


@dataclass(frozen=True)
class Slots:
    """Patches of B rows in the order they were proposed, k slots each.

    Attributes:
        ids: (B, k) patch ids, meaningless where not kept.
        kept: (B, k) whether the patch is really gazed at; else the slot is padding.
    """

    ids: Int[Tensor, "B k"]
    kept: Bool[Tensor, "B k"]


class GazeState:
    """Gazing at B rows of frames, and all that it carries from frame to frame.

    Args:
        decoder: the decoder made ready for gazing.
        num_rows: B.
        capacity: tokens that a row's cache has room for; more are made room for.
        decode_positions: see `AutoGazeConfig`.

    Attributes:
        cache: keys and values of all tokens fed so far.
        unfed: ids gazed at that the decoder has not been fed yet, per row.
        history: what the vision stem carries on; None before the first frame.
    """

    def __init__(
        self, decoder: FusedDecoder, num_rows: int, capacity: int, decode_positions: str
    ) -> None:
        config, like = decoder.config, decoder.lm_head
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
        self.unfed = [torch.empty(0, dtype=torch.long, device=like.device)] * num_rows
        self.history: ConvHistory | None = None

    def unfed_ids(self) -> list[Int[Tensor, " _"]]:
        """Patches gazed at and not fed yet, per row."""
        return list(self.unfed)

    def lengths(self) -> list[int]:
        """Tokens in the cache, per row."""
        return list(self.cache.lengths)

    def gaze_frame(
        self,
        vision_tokens: Float[Tensor, "B tokens C"],
        limits: FrameLimits,
        sampling: FrameSampling,
    ) -> Slots:
        """Gaze at the next frame; slots are padded where rows stop before others.

        A row is finished when it has as many patches as its cap, or where it has a
        threshold when a slot of it was stopped (`limits.stopped_slots`).
        """
        V = self.decoder.config.vocab_size - 1
        hidden, prefill_ends = self._prefill(vision_tokens)  # (B, C)
        taken = torch.zeros(self.num_rows, V, dtype=torch.bool, device=hidden.device)
        finished = torch.zeros(self.num_rows, 1, dtype=torch.bool, device=hidden.device)
        active = list(range(self.num_rows))
        left = list(limits.caps)  # patches that each row may still take, known without asking
        blocks: list[Slots] = []
        while active:
            logits, losses = self.decoder.heads(hidden)  # (B, K, V + 1), (B, K)
            size = min(max(left), losses.shape[1])
            ids = sample_block(logits[:, :size, :V], taken, sampling)  # (B, size)
            kept = (~finished).expand(-1, size)
            if min(left) < size:  # some rows' caps end inside this block
                room = torch.tensor(left, device=hidden.device)[:, None]
                kept = kept & (torch.arange(size, device=hidden.device) < room)
            if limits.threshold is not None:
                first = not blocks
                stopped = stopped_slots(losses[:, :size], limits.threshold, first_block=first)
                kept = kept & ~stopped
                finished = finished | ~kept.all(1, keepdim=True)
            block = Slots(ids, kept)
            blocks.append(block)
            active = self._going_on(block, left, active, stops=limits.threshold is not None)
            left = [max(0, count - size) for count in left]
            if active:
                hidden = self._feed_block(ids, active, prefill_ends, hidden)
        return Slots(
            torch.cat([block.ids for block in blocks], 1),
            torch.cat([block.kept for block in blocks], 1),
        )

    def _going_on(
        self, block: Slots, left: list[int], active: list[int], *, stops: bool
    ) -> list[int]:
        """Which of the active rows go on after this block; what they gazed at is yet to be fed.

        The one place in the loop that waits for the device: once per block, where rows can
        stop by loss.

        Args:
            left: patches that each row might take before this block.
        """
        size = block.ids.shape[1]
        if stops:
            kept = block.kept.tolist()
            for row in active:
                slots = [slot for slot, real in enumerate(kept[row]) if real]
                self.unfed[row] = block.ids[row, slots]
            active = [row for row in active if all(kept[row])]
        else:
            for row in active:
                self.unfed[row] = block.ids[row, : left[row]]
        return [row for row in active if left[row] > size]

    def _prefill(
        self, vision_tokens: Float[Tensor, "B tokens C"]
    ) -> tuple[Float[Tensor, "B C"], list[int]]:
        """Feed what is unfed and the frame; the last state and its position, per row."""
        num_tokens = vision_tokens.shape[1]
        parts = []
        for ids, frame in zip(self.unfed, vision_tokens, strict=True):
            parts += [self.decoder.embed_tokens(ids), frame]
        counts = tuple(len(ids) + num_tokens for ids in self.unfed)
        starts = self.cache.lengths
        ends = [start + count - 1 for start, count in zip(starts, counts, strict=True)]
        positions = [torch.arange(start, end + 1) for start, end in zip(starts, ends, strict=True)]
        self.unfed = [ids[:0] for ids in self.unfed]
        feed = Feed(tuple(range(self.num_rows)), counts)
        return self._feed(torch.cat(parts), torch.cat(positions), feed), ends

    def _feed_block(
        self,
        ids: Int[Tensor, "B k"],
        active: list[int],
        prefill_ends: list[int],
        hidden: Float[Tensor, "B C"],
    ) -> Float[Tensor, "B C"]:
        """Feed a whole block to the rows that go on; the others' states stay as they are."""
        size = ids.shape[1]
        starts = [
            self.cache.lengths[row] if self.sequential else prefill_ends[row] - size + 1
            for row in active
        ]
        positions = torch.tensor(starts)[:, None] + torch.arange(size)  # (active, k)
        for row in active:
            self.unfed[row] = self.unfed[row][:0]
        everyone = len(active) == self.num_rows
        fed = ids if everyone else ids[active]
        tokens = self.decoder.embed_tokens(fed.flatten())
        feed = Feed(tuple(active), (size,) * len(active))
        updated = self._feed(tokens, positions.flatten(), feed)  # (active, C)
        if everyone:
            return updated
        return hidden.index_copy(0, torch.tensor(active, device=hidden.device), updated)

    def _feed(
        self, x: Float[Tensor, "N C"], positions: Int[Tensor, " N"], feed: Feed
    ) -> Float[Tensor, "R C"]:
        """Run packed tokens through the decoder; the final state of every fed row's last one."""
        self.cache.reserve(feed)
        rotation = self.decoder.rotations(positions.to(x.device))
        *layers, last_layer = enumerate(self.decoder.layers)
        for index, layer in layers:
            queries, keys_values = layer.project(x, rotation)
            self.cache.write(index, feed, keys_values)
            x = layer.finish(x, self.cache.attend(index, feed, queries))
        # Of the last layer only each row's last token is read: all that the others
        # leave behind are their keys and values.
        index, layer = last_layer
        queries, keys_values = layer.project(x, rotation)
        self.cache.write(index, feed, keys_values)
        last = feed.last().to(x.device)
        attended = self.cache.attend(index, feed, queries[last], last_only=True)
        x = layer.finish(x[last], attended)
        self.cache.advance(feed)
        return self.decoder.norm(x)
