"""A stand-in for CUDA graphs on a CPU: it records operators and replays them on the same tensors."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from autogaze.utils.cuda_graphs import Operations, Recorder


class Tape(Recorder):
    """Replays what was recorded, as a GPU does: the operators, tensors and numbers of the first run.

    Whatever Python would do otherwise the next time is not seen.
    """

    def _record(self, operations: Operations) -> Operations:
        with _Recording() as recording:
            operations()
        return recording.replay


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        if not operator.is_view:  # views of fixed tensors stay what they are
            self.steps.append((operator, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for operator, args, kwargs, recorded in self.steps:
            result = operator(*args, **kwargs)
            for new, old in zip(tree_iter(result), tree_iter(recorded), strict=True):
                if isinstance(old, Tensor) and new is not old:
                    old.copy_(new)
