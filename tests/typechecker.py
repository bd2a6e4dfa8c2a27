"""Checks of arguments and results against annotations, shapes included, cheap enough for every call.

`jaxtyping.jaxtyped` with beartype prepares two functions per function when a module is imported,
and checks arguments twice per call. This does the same in about a third of the time: one check per
annotation, prepared when a function is first called and shared in its module.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping._array_types import _anonymous_dim, _FixedDim, _NamedDim
from jaxtyping._storage import get_shape_memo, pop_shape_memo, push_shape_memo

from_jaxtyping = jaxtyping.jaxtyped

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Checks values; an int passes for a float, as PEP 484 says."""

Check = Callable[[Any], None]


def typed(target: Any) -> Any:
    """A function, method or property that checks its calls, or a dataclass whose `__init__` does."""
    if getattr(target, "__module__", "").endswith("triton_kernels"):
        return target  # Triton compiles the function itself, with what its module imports
    if inspect.isclass(target):
        if dataclasses.is_dataclass(target) and not hasattr(target.__init__, "is_typed"):
            target.__init__ = typed(target.__init__)
        return target
    if isinstance(target, classmethod | staticmethod):
        return type(target)(typed(target.__func__))
    if isinstance(target, property):
        accessors = (target.fget, target.fset, target.fdel)
        return property(*(one and typed(one) for one in accessors), target.__doc__)
    if not target.__annotations__:
        return target
    if any(map(says_more, target.__annotations__.values())):
        return from_jaxtyping(target, typechecker=check)
    return typed_function(target)


def says_more(annotation: Any) -> bool:
    """Whether it needs more than its value: axes that arguments say."""
    return "{" in str(annotation)


def typed_function(function: Callable[..., Any]) -> Callable[..., Any]:
    checks: Checks | None = None

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checks
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if checks is None:
            checks = Checks(function)
        if not checks.has_axes:
            checks.arguments(args, kwargs)
            result = function(*args, **kwargs)
            checks.result(result)
            return result
        push_shape_memo({})  # in which an axis has one length
        try:
            checks.arguments(args, kwargs)
            result = function(*args, **kwargs)
            checks.result(result)
        finally:
            pop_shape_memo()
        return result

    checked.is_typed = True
    return checked


class Checks:
    """Checks of one function's arguments and of its result."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.by_place: list[tuple[str, Check | None]] = []
        self.by_name: dict[str, Check | None] = {}
        self.further: tuple[str, Check | None] = ("", None)
        self.further_named: Check | None = None
        self.has_axes = False
        signature = inspect.signature(function)
        for name, parameter in signature.parameters.items():
            found = self._check_of(parameter.annotation, function)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self.further = (name, found)
            elif parameter.kind is parameter.VAR_KEYWORD:
                self.further_named = found
            else:
                if parameter.kind is not parameter.KEYWORD_ONLY:
                    self.by_place.append((name, found))
                if parameter.kind is not parameter.POSITIONAL_ONLY:
                    self.by_name[name] = found
        self.returned = self._check_of(signature.return_annotation, function)

    def _check_of(self, annotation: Any, function: Callable[..., Any]) -> Check | None:
        hint = hint_of(annotation, function)
        self.has_axes = self.has_axes or has_axes(hint)
        return None if hint in (Any, object) else _check_of(hint, function.__module__)

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = ""
        try:
            for (name, found), value in zip(self.by_place, args, strict=False):  # noqa: B007 a message names it
                if found is not None:
                    found(value)
            name, found = self.further
            if found is not None:
                for value in args[len(self.by_place) :]:
                    found(value)
            for name, value in kwargs.items():
                found = self.by_name.get(name, self.further_named)
                if found is not None:
                    found(value)
        except BeartypeCallHintViolation as error:
            raise jaxtyping.TypeCheckError(f"{self.name}: {name}: {error}") from None

    def result(self, value: Any) -> None:
        if self.returned is not None:
            try:
                self.returned(value)
            except BeartypeCallHintViolation as error:
                raise jaxtyping.TypeCheckError(f"{self.name}: the result: {error}") from None


def hint_of(annotation: Any, function: Callable[..., Any]) -> Any:
    """What an annotation stands for; `Any` where there is none, or only mypy can check it.

    That is so of names which are imported for mypy alone, and of typed keyword arguments: beartype
    checks none of those.
    """
    if annotation is inspect.Parameter.empty:
        return Any
    try:
        namespace = getattr(function, "__globals__", {})
        hint = typing.get_type_hints(_annotated(annotation, ""), namespace, include_extras=True)[
            "value"
        ]
    except Exception:
        return Any
    return Any if typing.get_origin(hint) is typing.Unpack else hint


def has_axes(hint: Any) -> bool:
    """Whether a hint names axes, which have one length in a call."""
    if isinstance(hint, typing.TypeVar):
        return any(map(has_axes, (hint.__bound__, *hint.__constraints__)))
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(has_axes, typing.get_args(hint)))


def _annotated(hint: Any, module: str) -> Callable[[Any], None]:
    def value_is(value: Any) -> None:
        pass

    value_is.__annotations__ = {"value": hint}
    value_is.__module__ = module  # where bounds of type variables are looked up
    return value_is


@functools.cache
def _check_of(hint: Any, module: str) -> Check:
    found = check(_annotated(hint, module))
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return _quick(hint, found)
    return found


def _quick(hint: Any, found: Check) -> Check:
    """The same check of an array whose axes have plain names or numbers, in a quarter of the time.

    Whatever is not plainly right is left to `found`, and so is what an element type is called.
    """
    axes: list[str | int | None] = []
    for axis in hint.dims:
        if axis is _anonymous_dim:
            axes.append(None)
        elif isinstance(axis, _NamedDim) and not axis.broadcastable and not axis.treepath:
            axes.append(axis.name)
        elif isinstance(axis, _FixedDim) and not axis.broadcastable:
            axes.append(axis.size)
        else:
            return found
    known: set[Any] = set()

    def quick(array: Any) -> None:
        if isinstance(array, hint.array_type) and array.dtype in known and array.ndim == len(axes):
            lengths = get_shape_memo()[0]
            for axis, size in zip(axes, array.shape, strict=True):
                wanted = lengths.setdefault(axis, size) if isinstance(axis, str) else axis
                if wanted is not None and wanted != size:
                    break
            else:
                return
        found(array)
        known.add(array.dtype)

    return quick
