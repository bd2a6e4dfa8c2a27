"""Recording of operations that are run again and again on the same tensors.

A CUDA graph is launched as one: the host no longer waits on its own Python between kernels. What
is recorded reads and writes the addresses that it had, so shapes, addresses and plain numbers must
not change from one run to the next.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch

Operations = Callable[[], None]


class Recorder:
    """Runs operations, and counts what a GPU would record; this one records nothing.

    Attributes:
        num_recorded: operations recorded so far, in all states that share this recorder.
        num_replayed: how often one of them was replayed.
    """

    def __init__(self) -> None:
        self.num_recorded = 0
        self.num_replayed = 0

    def run_and_record(self, operations: Operations) -> Operations:
        """Run operations for the first time; returns what runs them again."""
        self.num_recorded += 1
        replay = self._record(operations)

        def counted() -> None:
            self.num_replayed += 1
            replay()

        return counted

    def _record(self, operations: Operations) -> Operations:
        operations()
        return operations


class CudaGraphs(Recorder):
    """Records CUDA graphs, all in one memory pool.

    Graphs that share a pool overwrite each other's temporary tensors. What must last is therefore
    allocated outside of them.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self._pool: Any = None

    def _record(self, operations: Operations) -> Operations:
        operations()  # recording does not run them, and libraries set themselves up in a first run
        with torch.cuda.device(self.device), torch.cuda.stream(torch.cuda.current_stream()):
            # A recording that fails leaves its own stream the current one; ours is set again here.
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the GPU in the meantime.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                operations()
            self._pool = graph.pool()
        return graph.replay


class Recordings:
    """Recorded operations of one state, by what is special about each.

    Args:
        recorder: None runs everything as it is.
        compiled: whether operations are compiled by `torch.compile` before their first run, which
            takes a minute for each and saves launches.
    """

    def __init__(self, recorder: Recorder | None, *, compiled: bool = False) -> None:
        self.recorder, self.compiled = recorder, compiled
        self._replays: dict[Hashable, Operations] = {}

    def run(self, key: Hashable, operations: Operations) -> None:
        """Run operations: recorded the first time, replayed from then on."""
        if key in self._replays:
            self._replays[key]()
            return
        if self.compiled:
            operations = _compiled(operations)
        if self.recorder is None:
            operations()
            if self.compiled:
                self._replays[key] = operations
            return
        self._replays[key] = self.recorder.run_and_record(operations)

    def forget(self) -> None:
        """Drop all recordings: tensors have moved."""
        self._replays.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Recordings":
        return Recordings(self.recorder, compiled=self.compiled)

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process."""
        return {"recorder": None, "compiled": self.compiled, "_replays": {}}


def _compiled(operations: Operations) -> Operations:
    """Operations under `torch.compile`, compiled when they are first run."""
    traced = torch.compile(operations, dynamic=False)

    def run() -> None:
        # Every window and state is a shape of its own, and none may fall back to eager unseen.
        with torch._dynamo.config.patch(recompile_limit=_MANY, accumulated_recompile_limit=_MANY):
            traced()

    return run


_MANY = 1 << 16
