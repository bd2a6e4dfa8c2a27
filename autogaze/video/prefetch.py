"""Work one item ahead of the consumer, in a thread.

FFmpeg and PyTorch let go of Python's lock while they work, so the next chunk is
decoded while the selector looks at this one. Two items exist at most: the one the
consumer has and the one in the making.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class _Outcome(Generic[Item]):
    """An item, an error, or the end."""

    def __init__(self, item: Item | None = None, error: BaseException | None = None) -> None:
        self.item = item
        self.error = error


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Iterate over `items` in a thread, one ahead; errors are raised here.

    The thread ends when the consumer does, also early or with an error: at the
    latest when the item in the making is made.
    """
    outcomes: queue.SimpleQueue[_Outcome[Item]] = queue.SimpleQueue()
    wanted = threading.Semaphore(1)
    stop = threading.Event()

    def produce() -> None:
        try:
            iterator = iter(items)
            try:
                while wanted.acquire() and not stop.is_set():
                    outcomes.put(_Outcome(next(iterator)))
            finally:
                if hasattr(iterator, "close"):
                    iterator.close()
        except StopIteration:
            outcomes.put(_Outcome())
        except BaseException as error:  # also KeyboardInterrupt: whatever it is, it is not lost
            outcomes.put(_Outcome(error=error))

    thread = threading.Thread(target=produce, name="autogaze-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            outcome = outcomes.get()
            if outcome.error is not None:
                raise outcome.error
            if outcome.item is None:
                return
            wanted.release()
            item, outcome = outcome.item, _Outcome()
            yield item
            del item
    finally:
        stop.set()
        wanted.release()
        thread.join()
