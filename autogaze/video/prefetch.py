"""Prefetching: items made in a thread, one ahead of their consumer."""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TypeVar

Item = TypeVar("Item")


class HandingOn(Iterator[Item]):
    """Iterates over items, keeps none of them, and counts them.

    A generator that yields in a loop keeps its last item for as long as it is suspended.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self.count = 0

    def __next__(self) -> Item:
        item = next(self._items)
        self.count += 1
        return item


class Demand:
    """How many items the consumer has asked for, as their producer's thread sees it.

    A producer of large items waits in the middle of one until it is asked for: the consumer then
    has let go of the one before.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked = 0
        self._over = False

    def ask(self) -> None:
        """Ask for the next item."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def end(self) -> None:
        """No more items are wanted: nobody waits any longer."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def wait(self, number: int) -> None:
        """Wait until item `number`, from 0, is asked for, or no more items are wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._asked > number)


def ahead(
    items: Generator[Item, None, None], demand: Demand | None = None
) -> Generator[Item, None, None]:
    """Prefetch one item of `items` in a thread; its errors are raised here.

    The thread ends with the consumer, also early or with an error, at the latest when the
    current item is made.

    Args:
        items: run in the thread.
        demand: told of every item that is asked for.
    """
    made: queue.SimpleQueue[tuple[Item | None, BaseException | None]] = queue.SimpleQueue()
    wanted = threading.Semaphore(1)
    stop = threading.Event()
    demand = demand or Demand()

    def produce() -> None:
        try:
            with closing(items):
                while wanted.acquire() and not stop.is_set():
                    made.put((next(items), None))
        except StopIteration:
            made.put((None, None))
        except BaseException as error:  # raised in the consumer
            made.put((None, error))

    thread = threading.Thread(target=produce, name="autogaze-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            demand.ask()
            item, error = made.get()
            if error is not None:
                raise error
            if item is None:
                return
            wanted.release()
            yield item
            del item  # free its memory while waiting for the next one
    finally:
        stop.set()
        demand.end()
        wanted.release()
        thread.join()
