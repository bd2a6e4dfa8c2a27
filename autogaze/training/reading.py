"""From plain dicts, as configuration files give them, to typed frozen options."""

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from autogaze.errors import TrainingError

Options = TypeVar("Options")


def read(kind: type[Options], values: Mapping[str, Any], group: str) -> Options:
    """Options of a dataclass from a dict.

    Args:
        kind: a frozen dataclass; its annotations say what is accepted.
        values: by name; what is missing keeps its default.
        group: what messages call it: `trainer` for `trainer.lr`.

    Raises:
        TrainingError: an option that does not exist, or a value of another kind.
    """
    hints = get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise TrainingError(unknown(f"option {group}.{name}", name, fields))
        given[name] = _read_value(hints[name], value, f"{group}.{name}")
    return kind(**given)


def choose(known: Mapping[str, Any], name: object, option: str) -> Any:
    """The entry of a name.

    Raises:
        TrainingError: there is none; the known ones are listed.
    """
    if not isinstance(name, str) or name not in known:
        raise TrainingError(unknown(f"{option} {name!r}", str(name), known))
    return known[name]


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that means nothing."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"unknown {what}: known are {', '.join(known)}{hint}"


def _read_value(hint: Any, value: Any, option: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(hint), value, option)
    if origin is Literal:
        choose({str(known): known for known in get_args(hint)}, value, option)
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _wrong(option, "a group of options", value)
        return read(hint, value, option)  # type: ignore[arg-type]
    if origin is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise _wrong(option, "a list", value)
        return tuple(_read_value(get_args(hint)[0], item, option) for item in value)
    if hint is Any or origin in (dict, Mapping) or hint in (dict, Mapping):
        if hint is not Any and not isinstance(value, Mapping):
            raise _wrong(option, "a group of options", value)
        return value
    return _read_plain(hint, value, option)


def _read_union(choices: tuple[Any, ...], value: Any, option: str) -> Any:
    if value is None and type(None) in choices:
        return None
    *others, last = (choice for choice in choices if choice is not type(None))
    for choice in others:
        try:
            return _read_value(choice, value, option)
        except TrainingError:
            continue
    return _read_value(last, value, option)


def _read_plain(kind: type, value: Any, option: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML reads 5e-4 as text
        try:
            return float(value)
        except ValueError:
            raise _wrong(option, "a number", value) from None
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise _wrong(option, names.get(kind, kind.__name__), value)
    return value


def _wrong(option: str, wanted: str, value: Any) -> TrainingError:
    return TrainingError(f"{option} must be {wanted}, got {value!r}")
