"""Gazing with shapes that never change, so that a GPU can replay it as CUDA graphs.

The loop of `decoding.py` feeds rows of different lengths, which the host must know. Here every
count stays on the device: rows are padded, padding is written to a slot that attention never
reads, and attention reads a window through a mask. That costs arithmetic and saves kernel
launches, which bound a loop of thousands of small operations. The gazes are the same.

Blocks that nobody asks about are recorded together, after the frame that they belong to. Without a
stopping threshold the host waits for nothing. With one it asks how many rows go on: after as many
blocks as the last two frames both took, then after each, and after `ASK_EVERY` at the latest. Once
few rows are left they go on in a smaller state. States are kept for later calls (`StaticStates`).
"""

import math
from functools import partial
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.decoding import ConvHistory, Slots
from autogaze.models.autogaze.frame_steps import FrameRows
from autogaze.models.autogaze.limits import FrameLimits
from autogaze.models.autogaze.sampling import DeviceNoise, FrameSampling, sample_block
from autogaze.models.autogaze.triton_decoder import new_static_decoder
from autogaze.models.autogaze.triton_steps import new_frame_steps
from autogaze.utils.cuda_graphs import CudaGraphs, Recorder, Recordings
from autogaze.utils.device import sent, stream_number
from autogaze.utils.kernels import power_of_two

WINDOW = 512
"""Tokens of the smallest window of attention; larger ones are 1.5 and 2 times the one before."""

ASK_EVERY = 4
"""The host asks whether any row goes on after so many blocks of a frame at the latest."""

MOST_BLOCKS = 8
"""Blocks that are recorded as one at most."""

COMPACT = 4
"""Rows go on in a smaller state once no more than 1 / COMPACT of them are left."""


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
        states: "StaticStates | None" = None,
    ) -> None:
        compiled = recordings.compiled
        self.recordings, self.states = recordings, states
        self.decoder = new_static_decoder(decoder, num_rows, capacity, compiled=compiled)
        self.steps = new_frame_steps(decoder, num_tokens, sequential=sequential, compiled=compiled)
        self.num_rows = self.room = num_rows
        self.stream = stream_number(decoder.device)
        self.sequential = sequential
        self.block_size = decoder.config.num_multi_token_pred
        self.history: ConvHistory | None = None
        self.rows = FrameRows.of(decoder, num_rows, num_tokens)
        with torch.inference_mode(False):  # so that every mode may write it
            self.hidden = torch.zeros_like(self.rows.tokens[:, 0])
        self.noise = DeviceNoise(num_rows, decoder.device)
        self._limits = FrameLimits((), math.nan)  # as no other
        self.reset(num_rows)

    def reset(self, num_rows: int) -> None:
        """Forget everything, and gaze at `num_rows` rows from now on."""
        self.num_rows, self.longest, self.history = num_rows, 0, None
        self._numbers = (0, 0)  # of blocks that the last two frames took
        with torch.inference_mode(False), torch.no_grad():
            self.decoder.cache.zero_()  # a masked value is multiplied by zero: NaN would remain
            self.rows.reset(num_rows)
        self._limits = FrameLimits((), math.nan)  # as no other

    @property
    def shape(self) -> tuple[int, int, bool, bool, bool, int]:
        """What states that can stand for each other have in common."""
        compiled, recorded = self.recordings.compiled, self.recordings.recorder is not None
        return (self.room, self.capacity, self.sequential, compiled, recorded, self.stream)

    @property
    def capacity(self) -> int:
        return self.decoder.capacity

    @property
    def unfed_ids(self) -> list[Int[Tensor, " _"]]:
        """Ids gazed at that have not been fed yet, per row."""
        pairs = zip(self.rows.unfed, self.rows.valid, strict=True)
        return [ids[valid] for ids, valid in pairs][: self.num_rows]

    @property
    def lengths(self) -> list[int]:
        """Tokens in the cache, per row."""
        return (self.rows.last + 1)[: self.num_rows].tolist()

    def gaze_frame(
        self,
        vision_tokens: Float[Tensor, "B tokens C"],
        limits: FrameLimits,
        sampling: FrameSampling,
    ) -> Slots:
        """Gaze at the next frame; as `GazeState.gaze_frame`, but see `Slots.used`."""
        most, K = max(limits.caps), self.block_size
        self._make_room(vision_tokens.shape[1] + most)
        self._fill(limits, sampling)
        self.steps.begin(self.rows, vision_tokens, self.capacity)
        window = window_of(self.longest, self.capacity)
        seen = window if self.decoder.has_windows else self.capacity
        state, moved = self, None
        stops, done, end = limits.threshold is not None, 0, -(-most // K)
        is_known = not stops  # how many blocks are needed
        while done < end:
            count = min(end - done, self._blocks_at_once(done, sampling, stops=stops))
            state._run(seen, count, sampling, first=done == 0, left=most - done * K)
            done += count
            if not stops or done == end:
                continue
            counts = state.rows.counts.tolist()
            if is_known := not counts[done - 1]:
                done = counts.index(0) + 1
                break
            few = power_of_two(counts[done - 1]) * COMPACT <= self.room
            if few and moved is None and self.states is not None and sampling.is_static:
                state, moved = self._moved(self.states, counts[done - 1], window)
        if moved is not None:
            self._take_back(state, moved, window)
        self._numbers = (done, self._numbers[0] or done)
        rows, B, size = self.rows, self.num_rows, min(most, done * K)
        return Slots(
            rows.chosen[:B, :size].clone(),
            rows.kept[:B, :size].clone(),
            rows.predicted[:B].clone().float(),
            None if is_known else rows.turns[:B].amax(0, keepdim=True),
            all_kept=not stops and min(limits.caps) >= size,
        )

    def _blocks_at_once(self, done: int, sampling: FrameSampling, *, stops: bool) -> int:
        """Blocks to run before the host does anything else, after so many of a frame."""
        if self.recordings.compiled or not sampling.is_static:
            return 1
        if not stops:
            return MOST_BLOCKS
        # A block in vain takes longer than to ask, and most frames are like those before them.
        return max(1, min(ASK_EVERY, min(self._numbers) - done))

    def _make_room(self, tokens: int) -> None:
        self.longest += tokens  # an upper bound of every row's length, known without asking
        if self.longest > self.capacity:
            self.decoder.grow(power_of_two(self.longest))
            self.recordings.forget()  # they refer to the old tensors

    def _fill(self, limits: FrameLimits, sampling: FrameSampling) -> None:
        """Put what is new about a frame where the recorded operations read it."""
        rows, B, caps, threshold = self.rows, self.num_rows, limits.caps, limits.threshold
        if caps != self._limits.caps:
            if len(set(caps)) == 1:
                rows.caps.fill_(caps[0])
            else:
                rows.caps[:B].copy_(sent(torch.tensor(caps)[:, None], rows.caps.device))
        if isinstance(threshold, Tensor):
            rows.thresholds[:B].copy_(threshold)
        elif isinstance(known := self._limits.threshold, Tensor) or known != threshold:
            rows.thresholds.fill_(float("-inf") if threshold is None else threshold)
        self._limits = limits
        if sampling.log_weights is not None:
            rows.log_weights[:B].copy_(sampling.log_weights)
        if sampling.seeds is not None:
            seeds = sent(torch.tensor(sampling.seeds), rows.caps.device)
            self.noise.start(seeds, sampling.temperature)

    def _run(
        self, window: int, count: int, sampling: FrameSampling, *, first: bool, left: int
    ) -> None:
        """Feed and take some blocks.

        Args:
            first: whether the frame is fed before the first of them, else the block before it.
            left: patches that some row may still take.
        """
        if sampling.is_static:
            weighted, sampled = sampling.log_weights is not None, sampling.seeds is not None
            key = (window, count, first, weighted, sampled)
            operations = partial(
                self._blocks, window, count, first=first, weighted=weighted, sampled=sampled
            )
            self.recordings.run(key, operations)
            return
        # Numbers come from torch's generators, and no more of them than are needed.
        self.recordings.run((window, first), partial(self._keep_hidden, window, first=first))
        B, size, rows = self.num_rows, min(left, self.block_size), self.rows
        logits, losses = self.steps.heads(self.hidden)
        rows.ids[:B, :size].copy_(sample_block(logits[:B, :size], rows.taken[:B], sampling))
        self.steps.block(rows, None, losses, self.capacity, first=first)

    # Recorded operations: they read and write the tensors above, in shapes known beforehand.

    def _blocks(
        self, window: int, count: int, *, first: bool, weighted: bool, sampled: bool
    ) -> None:
        """Feed and take so many blocks."""
        for number in range(count):
            hidden = self._feed(window, first=first and number == 0)
            logits, losses = self.steps.heads(hidden)  # (R, K, V), (R, K)
            if sampled:
                logits = self.noise.perturbed(logits)
            is_first = first and number == 0
            self.steps.block(
                self.rows, logits, losses, self.capacity, first=is_first, weighted=weighted
            )

    def _keep_hidden(self, window: int, *, first: bool) -> None:
        """Feed, and keep hidden states for what is not recorded."""
        self.hidden.copy_(self._feed(window, first=first))

    def _feed(self, window: int, *, first: bool) -> Float[Tensor, "R C"]:
        """Feed the frame, or the block to the rows that go on; those of others are not read."""
        rows = self.rows
        if first:
            places = rows.frame_places
            return self.decoder.feed(rows.frame_tokens, places, places, window)
        positions = rows.places if self.sequential else rows.positions
        return self.decoder.feed(rows.tokens, rows.places, positions, window)

    # Rows that go on by themselves.

    def _moved(
        self, states: "StaticStates", going: int, window: int
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
        rows = self.rows.going.int().argsort(descending=True, stable=True)[: small.room]
        small.rows.follow(self.rows, rows)
        small.decoder.window(window).copy_(self.decoder.window(window).index_select(1, rows))
        small.noise.follow(self.noise, rows)
        small._limits = FrameLimits((), math.nan)
        return small, rows

    def _take_back(self, small: "StaticGazeState", rows: Int[Tensor, " rows"], window: int) -> None:
        """What a smaller state has done to rows of this one."""
        self.rows.take_back(small.rows, rows)
        self.decoder.window(window).index_copy_(1, rows, small.decoder.window(window))
        if self.states is not None:
            self.states.give_back(small)


def window_of(tokens: int, capacity: int) -> int:
    """The least window for so many tokens: 2 or 3 times a power of two, or all of the cache."""
    window = WINDOW
    while window < tokens:
        power = power_of_two(window)
        window = power if window < power else window + window // 2
    return min(window, capacity)


def trimmed(frames: list[Slots], block_size: int) -> list[Slots]:
    """Frames without the blocks that no row needed; the host asks once for all of them."""
    asked = [frame.used for frame in frames if frame.used is not None]
    if not asked:
        return frames
    counts = iter((torch.cat(asked) * block_size).tolist())
    return [frame if frame.used is None else frame.first(next(counts)) for frame in frames]


MAX_FREE = 8
"""States that are kept for later calls at most; the oldest are dropped."""


class StaticStates:
    """Lends states for rows and capacities, both rounded up to powers of two.

    A state that is given back is lent again, with the graphs that were recorded for it, on the stream
    that it was made on: another could overtake what is still done in it. Copies and pickles of a
    model have none.

    Args:
        num_tokens: vision tokens per frame.

    Attributes:
        recorder: records and counts what is run; made with the first state.
        compiled: see `cuda_graphs.Recordings`.
    """

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.compiled = False
        self.recorder: Recorder | None = None
        self._free: list[StaticGazeState] = []
        self._lock = Lock()

    def lend(
        self,
        decoder: FusedDecoder,
        num_rows: int,
        capacity: int,
        *,
        sequential: bool,
        record: bool = True,
    ) -> StaticGazeState:
        """A state for so many rows and tokens, in which anything may stand.

        Args:
            sequential: whether `decode_positions` are (`AutoGazeConfig`).
            record: whether it is worth to record graphs: not while weights change.
        """
        shape = (
            *(power_of_two(num_rows), power_of_two(capacity), sequential, self.compiled, record),
            stream_number(decoder.device),
        )
        with self._lock:
            # Graphs read the weights that they were recorded with.
            self._free = [state for state in self._free if state.decoder.fused is decoder]
            for state in reversed(self._free):
                if state.shape == shape:
                    self._free.remove(state)
                    return state
            if self.recorder is None:
                on_gpu = decoder.device.type == "cuda"
                self.recorder = CudaGraphs(decoder.device) if on_gpu else Recorder()
        recordings = Recordings(self.recorder if record else None, compiled=self.compiled)
        return StaticGazeState(decoder, *shape[:3], self.num_tokens, recordings, self)

    def give_back(self, state: StaticGazeState) -> None:
        """Lend this state again some time; nobody uses it any more."""
        state.history = None
        with self._lock:
            self._free = [*self._free, state][-MAX_FREE:]

    def clear(self) -> None:
        """Drop all free states, with their graphs and memory."""
        with self._lock:
            self._free.clear()
            self.recorder = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the caches of free states."""
        return sum(state.decoder.cache.nbytes for state in self._free)

    def __reduce__(self) -> Any:
        return StaticStates, (self.num_tokens,), {"compiled": self.compiled}
