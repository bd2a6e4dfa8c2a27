"""Recording of operations that are run again and again on the same tensors.

A CUDA graph is launched as one: the host no longer waits on its own Python between kernels. What
is recorded reads and writes the addresses that it had, so shapes, addresses and plain numbers must
not change from one run to the next.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import cache
from threading import Lock, RLock
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

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
    """Records CUDA graphs: all that live at a time and were made for one stream in one memory pool.

    Graphs that share a pool overwrite each other's temporary tensors. What must last is therefore
    allocated outside of them, and those of another stream, which may run meanwhile, have another pool. One graph is recorded at a time in a process, as PyTorch demands.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self._living: dict[Any, WeakSet[Any]] = defaultdict(WeakSet)  # by stream

    def _record(self, operations: Operations) -> Operations:
        operations()  # recording does not run them, and libraries set themselves up in a first run
        with (
            _ONE_AT_A_TIME,
            torch.cuda.device(self.device),
            # A recording that fails leaves its own stream the current one; ours is set again here.
            torch.cuda.stream(torch.cuda.current_stream()),
        ):
            # PyTorch takes no pool whose graphs are all gone, so one of them is held meanwhile.
            living = self._living[torch.cuda.current_stream()]
            graph, other = torch.cuda.CUDAGraph(), next(iter(living), None)
            try:
                with self._recording(graph, other and other.pool()):
                    operations()
            except RuntimeError:
                self._mend()
                raise
            living.add(graph)
        return graph.replay

    def _mend(self) -> None:
        """Let random numbers be drawn on the GPU again.

        A recording that fails leaves PyTorch's generator as in a recording, in which it draws none. One
        that ends as it should resets it.
        """
        with suppress(RuntimeError), self._recording(torch.cuda.CUDAGraph()):
            torch.zeros(1, device=self.device)

    @staticmethod
    def _recording(graph: Any, pool: Any = None) -> Any:
        """A context that records; other threads may go on using the GPU in the meantime.

        PyTorch's own stream for it belongs to the GPU that first recorded, and sees no other's kernels.
        """
        stream = _stream_of(torch.cuda.current_device())
        return torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")


_ONE_AT_A_TIME = RLock()


@cache
def _stream_of(gpu: int) -> Any:
    """The stream on which graphs of a GPU are recorded: of one pool all on the same one."""
    return torch.cuda.Stream(gpu)


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


class RecordedCalls:
    """Calls of functions of tensors, each recorded the second time; the ones used last are kept.

    What is called once is not worth it: to record takes a tenth of a second.

    Args:
        recorder: of one stream, since calls on several would overwrite each other's tensors.
        most: recordings that are kept.
    """

    def __init__(self, recorder: Recorder, most: int = 8) -> None:
        self.recorder, self.most = recorder, most
        self._calls: OrderedDict[Hashable, _Call | None] = OrderedDict()
        self._lock = Lock()

    def call(
        self, key: Hashable, function: Callable[..., Sequence[Tensor]], arguments: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """What a function returns for tensors, which it may change.

        Arguments are copied to where they were recorded, and results from there: these are the caller's.

        Args:
            key: function, shapes and types, and all else that the function computes with.
        """
        with self._lock:
            is_known = key in self._calls
            call = self._calls.pop(key, None)
            if is_known and call is None:
                call = _Call(self.recorder, function, arguments)
            self._calls[key] = call
            if len(self._calls) > self.most:
                self._calls.popitem(last=False)
            return function(*arguments) if call is None else call.replayed(arguments)


class _Call:
    """One of them, with its arguments and results."""

    def __init__(
        self,
        recorder: Recorder,
        function: Callable[..., Sequence[Tensor]],
        arguments: Sequence[Tensor],
    ) -> None:
        with torch.inference_mode(False):  # so that every mode may write them
            self._arguments = [torch.empty_like(each) for each in arguments]
        self._copy(arguments)
        self._results: Sequence[Tensor] = ()

        def operations() -> None:
            self._results = function(*self._arguments)

        self._replay = recorder.run_and_record(operations)

    def _copy(self, arguments: Sequence[Tensor]) -> None:
        for own, given in zip(self._arguments, arguments, strict=True):
            own.copy_(given, non_blocking=True)

    def replayed(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        self._copy(arguments)
        self._replay()
        with torch.inference_mode(False):
            return [each.clone() for each in self._results]


def _compiled(operations: Operations) -> Operations:
    """Operations under `torch.compile`, compiled when they are first run."""
    traced = torch.compile(operations, dynamic=False)

    def run() -> None:
        # Every window and state is a shape of its own, and none may fall back to eager unseen.
        with torch._dynamo.config.patch(recompile_limit=_MANY, accumulated_recompile_limit=_MANY):
            traced()

    return run


_MANY = 1 << 16
