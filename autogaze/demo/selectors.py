"""Pool of the selectors that a page offers: loaded when needed, each used by one job at a time."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from autogaze.errors import SelectorError
from autogaze.selectors import registry
from autogaze.selectors.base import Selector
from autogaze.selectors.learned import Learned


class SelectorPool:
    """Selectors by name.

    Args:
        names: names, folders or hub ids that visitors may choose from; None for all of the package.
        device: where they choose patches.
        dtype: precision of those that have a model, the others compute in float32; None: as of
            `autogaze.load`.

    Raises:
        SelectorError: an unknown name.
        CheckpointError: a folder or hub id without usable weights.
    """

    def __init__(
        self,
        names: Sequence[str] | None = None,
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        self.names = tuple(dict.fromkeys(names or registry.list_selectors()))
        self._device, self._dtype = device, dtype
        self._lock = threading.Lock()
        self._by_loss: dict[str, bool] = {}
        self._free: dict[str, list[Selector]] = {name: [] for name in self.names}
        for name in self.names:
            if name not in registry.list_selectors():  # a bad folder is an error at the start
                self._free[name].append(self._load(name))

    @contextmanager
    def borrow(self, name: str) -> Iterator[Selector]:
        """A selector that nobody else uses inside the block.

        Raises:
            SelectorError: not one of the page's: visitors cannot name files or models.
        """
        selector = self.acquire(name)
        try:
            yield selector
        finally:
            self.release(name, selector)

    def stops_by_loss(self, name: str) -> bool:
        """Whether a selector can end a frame at a loss; errors as of `borrow`."""
        if name not in self._by_loss:  # asked often, and borrowing may mean loading another one
            with self.borrow(name) as selector:
                self._by_loss[name] = selector.metric is not None
        return self._by_loss[name]

    def acquire(self, name: str) -> Selector:
        """A selector that nobody else uses until `release`; errors as of `borrow`."""
        if name not in self._free:
            raise SelectorError(
                f"unknown selector {str(name)[:60]!r}; this page has {', '.join(self.names)}"
            )
        with self._lock:
            if self._free[name]:
                return self._free[name].pop()
        return self._load(name)

    def _load(self, name: str) -> Selector:
        selector = registry.load(name, device=self._device)
        if self._dtype is not None and isinstance(selector, Learned):
            selector.to(self._device, self._dtype)
        return selector

    def release(self, name: str, selector: Selector) -> None:
        """Return a selector to the pool."""
        with self._lock:
            self._free[name].append(selector)
