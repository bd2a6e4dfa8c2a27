"""Gazing with shapes that never change, so that a GPU can replay it as CUDA graphs.

The loop of `decoding.py` feeds rows of different lengths, which the host must know. Here every
count stays on the device: rows are padded, padding is written to a slot that attention never
reads, and attention reads a window through a mask. That costs arithmetic and saves kernel
launches, which bound a loop of thousands of small operations. The gazes are the same.

Without a stopping threshold the host waits for nothing. With one it asks how many rows go on: after
as many blocks as the frame before took, and after every `ASK_EVERY`. Once few rows are left they go
on in a smaller state.
"""

from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.models.autogaze.block_taker import (
    BlockRows,
    block_limiter,
    block_taker,
    limit_in_pytorch,
    take_in_pytorch,
)
from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.decoding import ConvHistory, Slots
from autogaze.models.autogaze.limits import FrameLimits
from autogaze.models.autogaze.sampling import (
    DeviceNoise,
    FrameSampling,
    sample_block,
)
from autogaze.models.autogaze.triton_decoder import new_static_decoder
from autogaze.utils.cuda_graphs import Recordings
from autogaze.utils.device import sent

WINDOW = 512
"""Tokens of the smallest window of attention; larger ones are 1.5 and 2 times the one before."""

ASK_EVERY = 4
"""The host asks whether any row goes on after every so many blocks of a frame."""

COMPACT = 4
"""Rows go on in a smaller state once no more than 1 / COMPACT of them are left."""


@runtime_checkable
class Lender(Protocol):
    """What has states for others (`static_states.StaticStates`)."""

    def lend(
        self,
        decoder: FusedDecoder,
        num_rows: int,
        capacity: int,
        *,
        sequential: bool,
        record: bool = True,
    ) -> "StaticGazeState": ...

    def give_back(self, state: "StaticGazeState") -> None: ...


class StaticGazeState:
    """`GazeState` with tensors of fixed shape only.

    Rows beyond those that are asked for take no patch.

    Args:
        decoder: the decoder with fused weights.
        num_rows: rows that there is room for; fewer may be gazed at, see `reset`.
        capacity: tokens per row that the cache is allocated for; it grows when full.
        sequential: whether `decode_positions` are (`AutoGazeConfig`).
        num_tokens: vision tokens per frame.
        recordings: runs what is recorded.
        states: where smaller states come from; None never goes on in one.
    """

    def __init__(
        self,
        decoder: FusedDecoder,
        num_rows: int,
        capacity: int,
        sequential: bool,
        num_tokens: int,
        recordings: Recordings,
        states: "Lender | None" = None,
    ) -> None:
        config = decoder.config
        self.recordings, self.states = recordings, states
        self.decoder = new_static_decoder(decoder, num_rows, capacity, compiled=recordings.compiled)
        self.num_rows = self.room = num_rows
        self.sequential = sequential
        self.block_size = K = config.num_multi_token_pred
        self.num_patches = V = config.vocab_size - 1
        # Compilers see through PyTorch's operations only.
        compiled, device = recordings.compiled, decoder.device
        self.take = take_in_pytorch if compiled else block_taker(device)
        self.limit = limit_in_pytorch if compiled else block_limiter(device)
        self.history: ConvHistory | None = None
        self.longest = 0
        self.usual_blocks = 1

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            with torch.inference_mode(False):  # so that every mode may write them
                return torch.zeros(*shape, dtype=dtype, device=decoder.device)

        R, C, flag, exact = num_rows, config.hidden_size, torch.bool, decoder.exact
        self.last = zeros(R)  # slot of each row's last token, -1 before the first
        self.prefill_ends = zeros(R)
        self.present, self.going = zeros(R, dtype=flag), zeros(R, dtype=flag)
        # Ids gazed at and not fed yet, in front of the next frame's vision tokens.
        self.unfed = zeros(R, K)
        self.valid = zeros(R, K + num_tokens, dtype=flag)
        self.vision = zeros(R, num_tokens, C, dtype=exact)
        self.hidden = zeros(R, C, dtype=exact)
        self.taken = zeros(R, V, dtype=flag)
        self.ids, self.kept = zeros(R, K), zeros(R, K, dtype=flag)
        self.left = zeros(R, 1)  # patches that each row may still take
        self.turns = zeros(R)  # blocks of this frame that each row took part in
        self.predicted = zeros(R, dtype=exact)
        self.first_thresholds = zeros(R, K, dtype=exact).fill_(float("-inf"))
        self.thresholds = zeros(R, 1, dtype=exact)
        self.log_weights = zeros(R, V, dtype=torch.float32)
        self.noise = DeviceNoise(R, decoder.device)
        with torch.inference_mode(False):
            self.following = torch.arange(1, K + 1, device=decoder.device)
        self.reset(num_rows)

    def reset(self, num_rows: int) -> None:
        """Forget everything, and gaze at `num_rows` rows from now on."""
        self.num_rows, self.longest, self.usual_blocks, self.history = num_rows, 0, 1, None
        with torch.inference_mode(False), torch.no_grad():
            self.decoder.cache.zero_()  # a masked value is multiplied by zero: NaN would remain
            self.last.fill_(-1)
            self.present[:num_rows].fill_(True)
            self.present[num_rows:].fill_(False)
            self.valid[:, : self.block_size].fill_(False)
            self.valid[:, self.block_size :].copy_(self.present[:, None])

    @property
    def shape(self) -> tuple[int, int, bool, bool, bool]:
        """What states that can stand for each other have in common."""
        compiled, recorded = self.recordings.compiled, self.recordings.recorder is not None
        return (self.room, self.capacity, self.sequential, compiled, recorded)

    @property
    def capacity(self) -> int:
        return self.decoder.capacity

    @property
    def unfed_ids(self) -> list[Int[Tensor, " _"]]:
        """Ids gazed at that have not been fed yet, per row."""
        pairs = zip(self.unfed, self.valid[:, : self.block_size], strict=True)
        return [ids[valid] for ids, valid in pairs][: self.num_rows]

    @property
    def lengths(self) -> list[int]:
        """Tokens in the cache, per row."""
        return (self.last + 1)[: self.num_rows].tolist()

    def gaze_frame(
        self,
        vision_tokens: Float[Tensor, "B tokens C"],
        limits: FrameLimits,
        sampling: FrameSampling,
    ) -> Slots:
        """Gaze at the next frame; as `GazeState.gaze_frame`, but see `Slots.used`."""
        left = max(limits.caps)
        self._make_room(vision_tokens.shape[1] + left)
        self._fill(vision_tokens, limits, sampling)
        window = window_of(self.longest, self.capacity)
        seen = window if self.decoder.has_windows else self.capacity
        self.recordings.run(("prefill", seen), partial(self._prefill, seen))
        blocks: list[tuple[Tensor, Tensor]] = []
        state, rows = self, None
        used: Tensor | None = None
        while True:
            size = min(left, self.block_size)
            block = state._block(sampling, size, first=not blocks)
            blocks.append(block if rows is None else self._widened(block, rows))
            left -= size
            if left == 0:
                used = None if limits.threshold is None else state.turns.amax(0, keepdim=True)
                break
            if limits.threshold is not None and self._is_asked(len(blocks)):
                needed, going = torch.stack([state.turns.amax(), state.going.sum()]).tolist()
                if not going:
                    blocks = blocks[:needed]
                    break
                few = power_of_two(going) * COMPACT <= self.room
                if few and rows is None and self.states is not None and sampling.is_static:
                    state, rows = self._moved(self.states, going, window)
            state.recordings.run(("feed", seen), partial(state._feed_block, seen))
        self.usual_blocks = len(blocks)
        if rows is not None:
            self._take_back(state, rows, window)
        ids, kept = (torch.cat(parts, 1)[: self.num_rows] for parts in zip(*blocks, strict=True))
        return Slots(ids, kept, self.predicted[: self.num_rows].clone().float(), used)

    def _is_asked(self, num_blocks: int) -> bool:
        """Whether the host asks after so many blocks if any row goes on."""
        return num_blocks == self.usual_blocks or num_blocks % ASK_EVERY == 0

    def _make_room(self, tokens: int) -> None:
        self.longest += tokens  # an upper bound of every row's length, known without asking
        if self.longest > self.capacity:
            self.decoder.grow(power_of_two(self.longest))
            self.recordings.forget()  # they refer to the old tensors

    def _fill(
        self,
        vision_tokens: Float[Tensor, "B tokens C"],
        limits: FrameLimits,
        sampling: FrameSampling,
    ) -> None:
        """Put what is new about a frame where the recorded operations read it."""
        B, caps, threshold = self.num_rows, limits.caps, limits.threshold
        self.vision[:B].copy_(vision_tokens)
        if len(set(caps)) == 1:
            self.left.fill_(caps[0])
        else:
            self.left[:B].copy_(sent(torch.tensor(caps)[:, None], self.left.device))
        if isinstance(threshold, Tensor):
            self.thresholds[:B].copy_(threshold)
        else:
            self.thresholds.fill_(float("-inf") if threshold is None else threshold)
        # Slot 0 of a frame never stops.
        self.first_thresholds[:, 1:].copy_(self.thresholds)
        if sampling.log_weights is not None:
            self.log_weights[:B].copy_(sampling.log_weights)
        if sampling.seeds is not None:
            seeds = sent(torch.tensor(sampling.seeds), self.left.device)
            self.noise.start(seeds, sampling.temperature)

    def _block(
        self, sampling: FrameSampling, size: int, *, first: bool
    ) -> tuple[Int[Tensor, "R k"], Bool[Tensor, "R k"]]:
        """Propose a block; its ids, and which of them are kept."""
        if sampling.is_static:
            options = {
                "first": first,
                "weighted": sampling.log_weights is not None,
                "sampled": sampling.seeds is not None,
            }
            key = ("propose", *options.values())
            self.recordings.run(key, partial(self._propose, **options))
        else:  # numbers come from torch's generators, and no more of them than are needed
            B = self.num_rows
            logits, losses = self.decoder.fused.heads(self.hidden)
            logits = logits[:B, :size, : self.num_patches]
            self.ids[:B, :size].copy_(sample_block(logits, self.taken[:B], sampling))
            self._limit(losses, first=first)
        return self.ids[:, :size].clone(), self.kept[:, :size].clone()

    # Recorded operations: they read and write the tensors above, in shapes known beforehand.

    def _prefill(self, window: int) -> None:
        """Feed the unfed ids of the frame before, and the frame."""
        tokens = torch.cat([self.decoder.fused.embed(self.unfed), self.vision], 1)
        places = self.last[:, None] + self.valid.cumsum(1)
        places = torch.where(self.valid, places, self.capacity)
        self.hidden.copy_(self.decoder.feed(tokens, places, places, window))
        self.last.copy_(places[:, -1])
        self.prefill_ends.copy_(self.last)
        self.taken.zero_()
        self.turns.zero_()
        self.going.copy_(self.present)

    def _propose(self, *, first: bool, weighted: bool, sampled: bool) -> None:
        """Take the next block's ids, and find which are kept and which rows finish."""
        logits, losses = self.decoder.fused.heads(self.hidden)  # (R, K, V + 1), (R, K)
        logits = logits[..., : self.num_patches]
        if sampled:
            logits = self.noise.perturbed(logits)
        if weighted:
            logits = logits + self.log_weights[:, None]
        self.take(logits, self.taken, self.ids)
        self._limit(losses, first=first)

    def _limit(self, losses: Float[Tensor, "R K"], *, first: bool) -> None:
        """Apply caps and thresholds to the block in `ids`."""
        rows = BlockRows(
            *(self.ids, self.kept, self.going, self.left, self.turns, self.predicted, self.unfed),
            *(self.valid[:, : self.block_size], self.following),
        )
        self.limit(rows, losses, self.first_thresholds if first else self.thresholds)

    def _feed_block(self, window: int) -> None:
        """Feed the block to the rows that go on; hidden states of others are not read any more."""
        places = self.last[:, None] + self.following
        places = torch.where(self.going[:, None], places, self.capacity)
        positions = places
        if not self.sequential:  # the last ones of the frame's prefill
            positions = self.prefill_ends[:, None] + (self.following - self.block_size)
        tokens = self.decoder.fused.embed(self.ids)
        self.hidden.copy_(self.decoder.feed(tokens, places, positions, window))
        self.last.add_(self.going, alpha=self.block_size)

    # Rows that go on by themselves.

    def _moved(
        self, states: "Lender", going: int, window: int
    ) -> tuple["StaticGazeState", Int[Tensor, " rows"]]:
        """A smaller state with the rows that go on, and their indices here."""
        small = states.lend(
            self.decoder.fused,
            going,
            self.capacity,
            sequential=self.sequential,
            record=self.recordings.recorder is not None,
        )
        # Those that go on come first; what fills up the rest takes no patch.
        rows = self.going.int().argsort(descending=True, stable=True)[: small.room]
        for name in _OF_ROWS:
            getattr(small, name).copy_(getattr(self, name).index_select(0, rows))
        small.decoder.window(window).copy_(self.decoder.window(window).index_select(1, rows))
        small.noise.follow(self.noise, rows)
        return small, rows

    def _take_back(self, small: "StaticGazeState", rows: Int[Tensor, " rows"], window: int) -> None:
        """What a smaller state has done to rows of this one."""
        for name in ("last", "unfed", "valid", "predicted"):
            getattr(self, name).index_copy_(0, rows, getattr(small, name))
        self.decoder.window(window).index_copy_(1, rows, small.decoder.window(window))
        if self.states is not None:
            self.states.give_back(small)

    def _widened(
        self, block: tuple[Tensor, Tensor], rows: Int[Tensor, " rows"]
    ) -> tuple[Int[Tensor, "R k"], Bool[Tensor, "R k"]]:
        """A smaller state's block among all rows."""
        ids, kept = (
            part.new_zeros(self.room, part.shape[1]).index_copy_(0, rows, part) for part in block
        )
        return ids, kept


_OF_ROWS = (
    *("last", "prefill_ends", "present", "going", "unfed", "valid", "hidden", "taken", "ids"),
    *("kept", "left", "turns", "predicted", "first_thresholds", "thresholds", "log_weights"),
)
"""Tensors of a state that have a row for every row of the batch, besides cache and vision tokens."""


def window_of(tokens: int, capacity: int) -> int:
    """The least window for so many tokens: 2 or 3 times a power of two, or all of the cache."""
    window = WINDOW
    while window < tokens:
        power = power_of_two(window)
        window = power if window < power else window + window // 2
    return min(window, capacity)


def power_of_two(number: int) -> int:
    """The least power of two that is not below a number of at least 1."""
    return 1 << (number - 1).bit_length()


def trimmed(frames: list[Slots], block_size: int) -> list[Slots]:
    """Frames without the blocks that no row needed; the host asks once for all of them."""
    asked = [frame.used for frame in frames if frame.used is not None]
    if not asked:
        return frames
    counts = iter((torch.cat(asked) * block_size).tolist())
    return [frame if frame.used is None else frame.first(next(counts)) for frame in frames]
