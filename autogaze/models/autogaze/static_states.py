"""States of fixed shape that are used again: allocated, and recorded as graphs, only once."""

from threading import Lock
from typing import Any

from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.static_shapes import StaticGazeState, power_of_two
from autogaze.utils.cuda_graphs import CudaGraphs, Recorder, Recordings
from autogaze.utils.device import stream_number

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
