"""Work on clips side by side, a processor core each."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` on every item, each in a thread of its own in which PyTorch uses one core.

    For work made of many small operations: shared out one by one, they would spend much
    of their time on waking and awaiting PyTorch's own threads.
    """
    num_threads = torch.get_num_threads()
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def alone(item: Item) -> Result:
        # What PyTorch remembers a thread; the caller's holds here too.
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return work(item)

    try:
        with ThreadPoolExecutor(
            len(items), "autogaze-clips", torch.set_num_threads, (1,)
        ) as threads:
            return list(threads.map(alone, items))
    finally:
        # Each thread has a number of its own, but the last one set is what new threads get.
        torch.set_num_threads(num_threads)
