"""Copies of states that are written in place."""

import copy
from typing import Any, ClassVar


class CopiedDeeply:
    """Base of states that are written in place, so that every copy must be a deep one.

    Attributes:
        shared_by_copies: attributes that a copy has in common with its original: models, settings.
    """

    shared_by_copies: ClassVar[tuple[str, ...]] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        memo |= {id(part): part for part in (getattr(self, name) for name in self.shared_by_copies)}
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def __copy__(self) -> Any:
        return copy.deepcopy(self)
