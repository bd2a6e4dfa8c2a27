"""Checks of arguments and results against annotations, shapes included, cheap enough for every call.

`jaxtyping.jaxtyped` with beartype prepares two functions per function when a module is imported,
and checks arguments twice per call. This does the same in about a third of the time: one check per
annotation, prepared when a function is first called and shared in its module.
"""

import abc
import dataclasses
import enum
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
import torch
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping._array_types import (
    _anonymous_dim,
    _anonymous_variadic_dim,
    _FixedDim,
    _NamedDim,
    _NamedVariadicDim,
)
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


@dataclasses.dataclass(frozen=True)
class Checked:
    """A check of a hint, and the types whose values have all passed it."""

    check: Check
    passed: set[type]
    by_type: bool
    """Whether a value's type decides, so that it passes or not with all others of its type."""

    def __call__(self, value: Any) -> None:
        self.check(value)
        if self.by_type:
            self.passed.add(type(value))


class Checks:
    """Checks of one function's arguments and of its result."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.by_place: list[tuple[int, str, set[type], Checked]] = []
        self.by_name: dict[str, Checked | None] = {}
        self.num_places = 0
        self.further: tuple[str, Checked | None] = ("", None)
        self.further_named: Checked | None = None
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
                    if found is not None:
                        self.by_place.append((self.num_places, name, found.passed, found))
                    self.num_places += 1
                if parameter.kind is not parameter.POSITIONAL_ONLY:
                    self.by_name[name] = found
        self.returned = self._check_of(signature.return_annotation, function)

    def _check_of(self, annotation: Any, function: Callable[..., Any]) -> Checked | None:
        hint = hint_of(annotation, function)
        self.has_axes = self.has_axes or has_axes(hint)
        return None if hint in (Any, object) else _check_of(hint, function.__module__)

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = ""
        try:
            given = len(args)
            for place, name, passed, found in self.by_place:  # noqa: B007 a message names it
                if place >= given:
                    break
                value = args[place]
                if type(value) not in passed:
                    found(value)
            if given > self.num_places:
                name, further = self.further
                if further is not None:
                    for value in args[self.num_places :]:
                        further(value)
            for name, value in kwargs.items():
                named = self.by_name.get(name, self.further_named)
                if named is not None and type(value) not in named.passed:
                    named(value)
        except BeartypeCallHintViolation as error:
            raise jaxtyping.TypeCheckError(f"{self.name}: {name}: {error}") from None

    def result(self, value: Any) -> None:
        if self.returned is not None and type(value) not in self.returned.passed:
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
def _check_of(hint: Any, module: str) -> Checked:
    return Checked(_simplest(hint, module), set(), is_by_type(hint))


def is_by_type(hint: Any) -> bool:
    """Whether the type of a value says if it is as a hint says: a class, or any of several."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return all(map(is_by_type, typing.get_args(hint)))
    if hint is torch.Tensor:
        return True
    # Others, as protocols and arrays, look at the value.
    plain = type(hint) in (type, abc.ABCMeta, enum.EnumMeta)
    return plain and typing.get_origin(hint) is None


def _simplest(hint: Any, module: str) -> Check:
    found = check(_annotated(hint, module))
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return _quick(hint, found)
    parts = typing.get_args(hint)
    if isinstance(hint, types.UnionType) and types.NoneType in parts and len(parts) == 2:
        [part] = (part for part in parts if part is not types.NoneType)
        rest = _simplest(part, module)
        return lambda value: None if value is None else rest(value)
    return found


Axes = list[str | int | None]


def _quick(hint: Any, found: Check) -> Check:
    """The same check of an array whose axes have plain names or numbers, in a quarter of the time.

    Whatever is not plainly right is left to `found`, and so is what an element type is called.
    """
    axes: list[Axes] = [[]]  # before those of any number, and after them
    many: str | None = None
    for axis in hint.dims:
        if axis is _anonymous_dim:
            axes[-1].append(None)
        elif axis is _anonymous_variadic_dim:
            axes.append([])
        elif getattr(axis, "broadcastable", True) or getattr(axis, "treepath", False):
            return found
        elif isinstance(axis, _NamedDim):
            axes[-1].append(axis.name)
        elif isinstance(axis, _FixedDim):
            axes[-1].append(axis.size)
        elif isinstance(axis, _NamedVariadicDim):
            axes.append([])
            many = axis.name
        else:
            return found
    before, after = axes[0], axes[-1] if len(axes) == 2 else []
    known: set[Any] = set()

    def quick(array: Any) -> None:
        if isinstance(array, hint.array_type) and array.dtype in known:
            shape, lengths = array.shape, get_shape_memo()[0]
            spare = len(shape) - len(before) - len(after)
            if spare == 0 or (spare > 0 and len(axes) == 2):
                wanted = [*before, *[None] * spare, *after] if len(axes) == 2 else before
                for axis, size in zip(wanted, shape):  # noqa: B905 as many, and twice as fast
                    length = lengths.setdefault(axis, size) if isinstance(axis, str) else axis
                    if length is not None and length != size:
                        break
                else:
                    if many is None:
                        return
                    middle = (False, shape[len(before) : len(before) + spare])
                    if get_shape_memo()[1].setdefault(many, middle) == middle:
                        return
        found(array)
        known.add(array.dtype)

    return quick
