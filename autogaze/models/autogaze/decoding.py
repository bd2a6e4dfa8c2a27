"""Gazing: the autoregressive loop, frame by frame and block by block.

Per frame the decoder is fed what it has not seen (the last block gazed in the frame
before, then this frame's vision tokens); its last hidden state proposes K patches
and says how large the loss would be before each of them. The block is kept where
the loss is still too large, fed, and so on (AutoGaze, section 3.2).

What makes it fast: one preallocated cache, the last layer computed for the one token
that is read, the last block of a frame riding along with the next frame's vision
tokens, padding and rows that have finished not fed at all.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from autogaze.errors import SelectorError
from autogaze.models.autogaze.decoder import FusedLayer, GazeDecoder
from autogaze.models.autogaze.kv_cache import Feed
from autogaze.models.autogaze.limits import FrameLimits
from autogaze.models.autogaze.native import key_value_cache
from autogaze.models.autogaze.products import product
from autogaze.models.autogaze.vision import ConvHistory

# Picking a block of patches from its logits, each patch at most once a frame.


@dataclass(frozen=True)
class Picking:
    """How an id is chosen from logits.

    Args:
        temperature: 0 takes the likeliest; else logits / temperature are sampled from.
        generator: source of randomness for sampling; None uses torch's global one.
        row_seeds: a seed for every row instead, one a clip. What a row is sampled
            follows from its own seed and the frame's number, so it is the same alone
            and in any batch, on one device and on several, as training needs it.
        row_generators: what `of_frame` made of the seeds; not to be given by hand.
        log_weights: (B, V), logarithms of what probabilities are multiplied with (see
            `returning`); set by `ClipStream`, not to be given by hand.
    """

    temperature: float = 0.0
    generator: torch.Generator | None = None
    row_seeds: tuple[int, ...] | None = None
    row_generators: tuple[torch.Generator, ...] | None = None
    log_weights: Float[Tensor, "B V"] | None = None

    def of_frame(self, frame: int, rows: slice, num_rows: int) -> "Picking":
        """What is used for one frame of some of the rows.

        Generators start anew at every frame: a row that has finished one draws on while
        others of its batch go on, and must not be further than when it is alone.

        Raises:
            SelectorError: there is not one seed for each of `num_rows` rows.
        """
        if self.row_seeds is None or self.temperature == 0:
            return self
        if len(self.row_seeds) != num_rows:
            raise SelectorError(f"{len(self.row_seeds)} row_seeds for {num_rows} clips")
        generators = tuple(
            torch.Generator().manual_seed((seed + _FRAME_STEP * frame) & _MASK)
            for seed in self.row_seeds[rows]
        )
        return replace(self, row_generators=generators)


_FRAME_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 63) - 1


def pick_block(
    logits: Float[Tensor, "B k V"], taken: Bool[Tensor, "B V"], picking: Picking
) -> Int[Tensor, "B k"]:
    """Pick one id from each head in turn, never one that is taken; marks them in `taken`.

    Args:
        logits: of the k heads over the V patches (EOS already left out).
        taken: patches gazed at in this frame before; updated in place.
    """
    if picking.log_weights is not None:
        # Logits are divided by the temperature below, and these are not to be.
        weights = picking.log_weights * (picking.temperature or 1)
        logits = logits + weights[:, None].to(logits)
    logits = logits.masked_fill(taken[:, None], float("-inf"))
    if picking.temperature == 0 and logits.device.type == "cpu":
        # Heads mostly want different patches, and then their order does not matter.
        ids = logits.argmax(-1)
        taken.scatter_(1, ids, True)
        if not _any_twice(ids):
            return ids
        taken.scatter_(1, ids, False).logical_or_(logits[:, 0].isneginf())
    waits = _waits(logits, picking)
    columns = []
    for head in range(logits.shape[1]):
        scores = logits[:, head]
        if picking.temperature == 0:
            chosen = scores.argmax(-1, keepdim=True)
        else:
            weights = (scores.float() / picking.temperature).softmax(-1)
            if waits is None:
                chosen = torch.multinomial(weights, 1, generator=picking.generator)
            else:
                chosen = (weights / waits[:, head]).argmax(-1, keepdim=True)
        columns.append(chosen)
        logits.scatter_(2, chosen[:, None].expand(-1, logits.shape[1], -1), float("-inf"))
    ids = torch.cat(columns, 1)
    taken.scatter_(1, ids, True)
    return ids


def _waits(logits: Float[Tensor, "B k V"], picking: Picking) -> Float[Tensor, "B k V"] | None:
    """Exponential noise, each row's from its own generator.

    Dividing weights by it and taking the largest is sampling by weight: with rates w_i the
    first of several exponential clocks to ring is i with probability w_i / sum w. Drawn on
    the CPU, so that every device samples the same.
    """
    if picking.row_generators is None or picking.temperature == 0:
        return None
    uniform = [
        torch.rand(logits.shape[1:], generator=generator) for generator in picking.row_generators
    ]
    return -torch.stack(uniform).log().to(logits.device)


def _any_twice(ids: Int[Tensor, "B k"]) -> bool:
    ordered = ids.sort(-1).values
    return bool((ordered[:, 1:] == ordered[:, :-1]).any())


@dataclass(frozen=True)
class Slots:
    """Patches of B rows in the order they were proposed, k slots each.

    Attributes:
        ids: (B, k) patch ids, meaningless where not kept.
        kept: (B, k) whether the patch is really gazed at; else the slot is padding.
    """

    ids: Int[Tensor, "B k"]
    kept: Bool[Tensor, "B k"]


@dataclass(frozen=True)
class Unfed:
    """Gazed patches that the decoder has not been fed yet: a list of ids a row."""

    ids: tuple[Int[Tensor, " _"], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(len(ids) for ids in self.ids)


class GazeState:
    """Everything that streaming carries from frame to frame.

    Attributes:
        cache: keys and values of all tokens fed so far.
        unfed: the last block gazed, which will be fed with the next frame.
        history: the conv blocks' last two input frames, or None before the first.
        num_frames: frames gazed at so far.
    """

    def __init__(self, decoding: "GazeDecoding", num_rows: int, capacity: int) -> None:
        config, like = decoding.config, decoding.decoder.lm_head.weight
        heads, head_dim = config.num_key_value_heads, config.head_dim
        nothing = torch.empty(0, dtype=torch.long, device=like.device)
        self.decoding = decoding
        layers = config.num_hidden_layers
        self.cache = key_value_cache(layers, num_rows, heads, head_dim, capacity, like)
        self.unfed = Unfed((nothing,) * num_rows)
        self.history: ConvHistory | None = None
        self.num_frames = 0

    @property
    def num_rows(self) -> int:
        return self.cache.num_rows

    def unfed_ids(self) -> list[Int[Tensor, " _"]]:
        """Patches gazed at and not fed yet, a row each."""
        return list(self.unfed.ids)

    def held_lengths(self) -> list[int]:
        """Tokens held, a row each."""
        return list(self.cache.lengths)

    def gaze_frame(
        self,
        vision_tokens: Float[Tensor, "B tokens C"],
        limits: FrameLimits,
        picking: Picking,
    ) -> Slots:
        """Gaze at the next frame; see `GazeDecoding.gaze_frame`."""
        return self.decoding.gaze_frame(self, vision_tokens, limits, picking)


class GazeDecoding:
    """The decoder made ready to gaze: joined weights, rotations, the loop itself."""

    def __init__(self, decoder: GazeDecoder, decode_positions: str) -> None:
        self.decoder = decoder
        self.config = decoder.config
        self.layers: list[FusedLayer] = decoder.fused_layers(fixed=True)
        self.logits = product(decoder.lm_head.weight, fixed=True)
        self.frequencies = decoder.frequencies()
        self.sequential = decode_positions == "sequential"

    def rotations(self, positions: Int[Tensor, " N"]) -> Complex[Tensor, "N pairs"]:
        """`GazeDecoder.rotations`, with the frequencies at hand."""
        return self.decoder.rotations(positions, self.frequencies)

    def gaze_frame(
        self,
        state: GazeState,
        vision_tokens: Float[Tensor, "B tokens C"],
        limits: FrameLimits,
        picking: Picking,
    ) -> Slots:
        """Gaze at one frame and return its slots, padded where rows stop before others.

        Args:
            limits: a row is finished when it has as many patches as its cap. Where it
                has a threshold, a slot is padding if its predicted loss is at most that,
                and its row is finished, too; but the first slot is always kept.
        """
        num_patches = self.config.vocab_size - 1
        hidden, prefill_ends = self._prefill(state, vision_tokens)
        taken = torch.zeros(len(hidden), num_patches, dtype=torch.bool, device=hidden.device)
        finished = torch.zeros(len(hidden), 1, dtype=torch.bool, device=hidden.device)
        active = list(range(state.num_rows))
        blocks: list[Slots] = []
        left = list(limits.caps)  # patches that each row may still take, known without asking
        while active:
            logits, losses = self._heads(hidden)
            size = min(max(left), losses.shape[-1])
            ids = pick_block(logits[:, :size, :num_patches], taken, picking)
            kept = (~finished).expand(-1, size)
            if min(left) < size:  # some rows' caps end inside this block
                room = torch.tensor(left, device=hidden.device)[:, None]
                kept = kept & (torch.arange(size, device=hidden.device) < room)
            if limits.threshold is not None:
                enough = losses[:, :size] <= limits.threshold
                if not blocks:
                    enough[:, 0] = False
                kept = kept & ~enough
                finished = finished | ~kept.all(1, keepdim=True)
            block = Slots(ids, kept)
            stops = limits.threshold is not None
            active = self._note_unfed(state, block, left, active, stops=stops)
            left = [max(0, count - size) for count in left]
            if active:
                hidden = self._feed_block(state, block, active, prefill_ends, hidden)
            blocks.append(block)
        state.num_frames += 1
        return Slots(
            torch.cat([block.ids for block in blocks], 1),
            torch.cat([block.kept for block in blocks], 1),
        )

    def _heads(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """K x (V + 1) logits and K predicted losses of every row."""
        logits = self.logits(hidden).unflatten(-1, (-1, self.config.vocab_size))
        return logits, self.decoder.predicted_losses(hidden)

    def _note_unfed(
        self, state: GazeState, block: Slots, left: list[int], active: list[int], *, stops: bool
    ) -> list[int]:
        """Remember what the active rows gazed at and are yet to be fed; which of them go on.

        The one place in the loop that waits for the device: once a block, where rows can
        stop by loss.

        Args:
            left: patches that each row might take before this block.
        """
        size = block.ids.shape[1]
        unfed = list(state.unfed.ids)
        if stops:
            kept = block.kept.tolist()
            for row in active:
                unfed[row] = block.ids[row, [slot for slot, real in enumerate(kept[row]) if real]]
            full = [row for row in active if all(kept[row])]
        else:
            ids = block.ids.unbind()
            for row in active:
                unfed[row] = ids[row] if left[row] >= size else ids[row][: left[row]]
            full = active
        state.unfed = Unfed(tuple(unfed))
        return [row for row in full if left[row] > size]

    def _prefill(self, state: GazeState, vision_tokens: Tensor) -> tuple[Tensor, list[int]]:
        """Feed the unfed block and the frame; returns states and the last position, per row."""
        B, num_tokens, _ = vision_tokens.shape
        embedded = [self.decoder.model.embed_tokens(ids) for ids in state.unfed.ids]
        tokens = torch.cat(
            [part for pair in zip(embedded, vision_tokens, strict=True) for part in pair]
        )
        feed = Feed(tuple(range(B)), tuple(n + num_tokens for n in state.unfed.counts))
        starts = state.cache.lengths
        positions = [
            torch.arange(start, start + count)
            for start, count in zip(starts, feed.counts, strict=True)
        ]
        ends = [start + count - 1 for start, count in zip(starts, feed.counts, strict=True)]
        state.unfed = Unfed(tuple(ids[:0] for ids in state.unfed.ids))
        return self._feed(state, tokens, torch.cat(positions), feed), ends

    def _feed_block(
        self,
        state: GazeState,
        block: Slots,
        active: list[int],
        prefill_ends: list[int],
        hidden: Tensor,
    ) -> Tensor:
        """Feed a whole block to the rows that go on; the others' states stay as they are."""
        size = block.ids.shape[1]
        starts = [
            state.cache.lengths[row] if self.sequential else prefill_ends[row] - size + 1
            for row in active
        ]
        positions = torch.tensor(starts)[:, None] + torch.arange(size)
        feed = Feed(tuple(active), (size,) * len(active))
        everyone = len(active) == state.num_rows
        ids = block.ids if everyone else block.ids[active]
        tokens = self.decoder.model.embed_tokens(ids.flatten())
        updated = self._feed(state, tokens, positions.flatten(), feed)
        fed = set(active)
        state.unfed = Unfed(
            tuple(ids[:0] if row in fed else ids for row, ids in enumerate(state.unfed.ids))
        )
        if everyone:
            return updated
        return hidden.index_copy(0, torch.tensor(active, device=hidden.device), updated)

    def _feed(
        self, state: GazeState, x: Float[Tensor, "N C"], positions: Int[Tensor, " N"], feed: Feed
    ) -> Float[Tensor, "R C"]:
        """Run packed tokens through the decoder; the final state of every row's last one."""
        cache = state.cache
        cache.reserve(feed)
        rotation = self.rotations(positions.to(x.device))
        for index, layer in enumerate(self.layers[:-1]):
            queries, keys_values = layer.project(x, rotation)
            cache.write(index, feed, keys_values)
            x = layer.finish(x, cache.attend(index, feed, queries))
        # Of the last layer only each row's last token is read: all that the others
        # leave behind are their keys and values.
        index, layer, last = len(self.layers) - 1, self.layers[-1], feed.last().to(x.device)
        normed = layer.normed(x)
        cache.write(index, feed, layer.keys_values(normed, rotation))
        queries = layer.queries(normed[last], rotation[last])
        x = layer.finish(x[last], cache.attend_last(index, feed, queries))
        cache.advance(feed)
        return self.decoder.model.norm(x)
