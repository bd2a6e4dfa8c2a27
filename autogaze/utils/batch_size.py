"""The size of batches, halved once where a device runs out of memory."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from autogaze.errors import AutoGazeError

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class BatchSize:
    """Size of batches, halved once, for all that follows, where memory does not hold one.

    Args:
        what: the items of a batch, for messages: "tiles".
        advice: which budget to lower, for messages.
        error: raised where half is too large as well.

    Attributes:
        halved: the size since memory was too small; None before.
    """

    def __init__(self, what: str, advice: str, error: type[AutoGazeError] = AutoGazeError) -> None:
        self._what, self._advice, self._error = what, advice, error
        self.halved: int | None = None

    def run(
        self,
        size: int,
        work: Callable[[int], Result],
        generator: torch.Generator | None = None,
    ) -> Result:
        """`work(size)`, done anew with half the size where memory is too small for it.

        Args:
            size: of a batch, at least 1; no more than was halved to before.
            generator: what `work` draws from; the second time it draws the same numbers.

        Raises:
            AutoGazeError: memory is too small for half the size, too, or for one item.
        """
        if self.halved is not None:
            size = min(size, self.halved)
        state = None if generator is None else generator.get_state()
        try:
            return work(size)
        except torch.OutOfMemoryError as error:
            if self.halved is not None or size == 1:
                raise self._error(
                    f"no memory for {size} {self._what} at once; {self._advice}, or free memory of "
                    "the device"
                ) from error
        # Not in the handler: the error holds what the work had allocated.
        torch.cuda.empty_cache()
        if generator is not None and state is not None:
            generator.set_state(state)
        self.halved = -(-size // 2)
        log.warning("no memory for %d %s at once: taking %d", size, self._what, self.halved)
        return self.run(size, work, generator)
