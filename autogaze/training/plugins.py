"""Plug-ins: tasks, datasets, algorithms and models from outside the package.

A group of options names one by `_target_`, the path of a class or function that can be imported, or by
the `name` that an installed package gives it as an entry point. Both run code that whoever writes
the configuration names. So they are read from configurations of trainings alone, never from
a checkpoint. What each kind must be: `docs/plugins.md`.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from autogaze.checks import describe_value
from autogaze.errors import TrainingError, first_line
from autogaze.training.config import unknown, unknown_option

TARGET = "_target_"
"""The option that names a class or function."""

ENTRY_POINTS = {
    "task": "autogaze.tasks",
    "dataset": "autogaze.datasets",
    "algorithm": "autogaze.algorithms",
    "model": "autogaze.models",
}
"""Groups of entry points of installed packages, by the group of options that can name them."""


def plugins(kind: str) -> dict[str, EntryPoint]:
    """The entry points of a kind, by name."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS[kind])}


def find(
    kind: str,
    options: Mapping[str, Any],
    known: Mapping[str, Any],
    *,
    group: str = "",
    default: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """The class that a group of options names, and the other options.

    Args:
        kind: a key of `ENTRY_POINTS`.
        known: what comes with the package, by name.
        group: path of the group in messages; by default the kind.
        default: name where the options have none.

    Raises:
        TrainingError: a name that nothing has, or a target that cannot be imported.
    """
    options, group = dict(options), group or kind
    name = options.pop("name", default)
    target = options.pop(TARGET, None)
    if target is not None:
        return load_target(target, f"{group}.{TARGET}"), options
    if not isinstance(name, str):
        raise TrainingError(f"{group}.name must be text, got {describe_value(name)}")
    if name in known:
        return known[name], options
    points = plugins(kind)
    if name in points:
        try:
            return points[name].load(), options
        except Exception as error:  # whatever the code of a plug-in raises
            raise TrainingError(
                f"{group}.name={name}: {points[name].value}, an entry point of {ENTRY_POINTS[kind]}, "
                f"cannot be imported: {error!r}"
            ) from error
    raise TrainingError(unknown(f"{group}.name {name!r}", str(name), {*known, *points}))


def load_target(path: Any, option: str) -> Any:
    """The class or function at a path such as `my_package.module.MyTask`.

    Raises:
        TrainingError: there is none, or its module cannot be imported.
    """
    module, _, attribute = str(path).rpartition(".")
    if not isinstance(path, str) or not module or not attribute.isidentifier():
        raise TrainingError(
            f"{option} must be the path of a class or function, such as my_package.MyTask, got {path!r}"
        )
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise TrainingError(
                f"{option}={path}: there is no module {error.name}; install it, or name its folder in "
                "PYTHONPATH"
            ) from error
        raise TrainingError(f"{option}={path} cannot be imported: {first_line(error)}") from error
    except AttributeError as error:
        raise TrainingError(f"{option}={path}: {first_line(error)}") from error
    except Exception as error:  # whatever that module's own code raises
        raise TrainingError(f"{option}={path} cannot be imported: {error!r}") from error
    if not callable(found):
        raise TrainingError(f"{option}={path} is no class or function, but {found!r:.80}")
    return found


def call(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    offered: Mapping[str, Any],
    group: str,
    *,
    inherited: bool = False,
) -> Any:
    """Call a target with its options, and with those of `offered` that its signature names.

    Args:
        inherited: what a class takes as `**kwargs` is handed on to the class that it derives from, so
            the names of that one's signature count, too.

    Raises:
        TrainingError: an option that it does not take, one that it lacks, or what it raises as a
            ValueError or OSError.
    """
    taken = inspect.signature(target).parameters.values()
    names = {one.name for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    anything = any(one.kind is one.VAR_KEYWORD for one in taken)
    if inherited:
        names, anything = _inherited(target)
    for name in options:
        if name not in names and not anything:
            raise TrainingError(unknown_option(group, str(name), names))
    given = {name: value for name, value in offered.items() if name in names} | dict(options)
    missing = [
        one.name
        for one in taken
        if one.name in names and one.default is one.empty and one.name not in given
    ]
    if missing:
        raise TrainingError(f"{_name(target)} needs {', '.join(f'{group}.{m}' for m in missing)}")
    try:
        return target(**given)
    except TrainingError:
        raise
    except (ValueError, OSError) as error:  # bad values, files that are not there; not its own bugs
        raise TrainingError(f"{group}: {_name(target)}: {first_line(error)}") from error


def with_attributes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options whose groups and lists are of OmegaConf, as Hydra gives them to published classes."""
    from omegaconf import OmegaConf

    made = OmegaConf.create(dict(options), flags={"allow_objects": True})
    return {str(name): made[name] for name in made}


def takes(target: Callable[..., Any], name: str, *, inherited: bool = False) -> bool:
    """Whether a target's signature names a parameter; for `inherited` see `call`."""
    if inherited:
        return name in _inherited(target)[0]
    return name in inspect.signature(target).parameters


def _inherited(target: Callable[..., Any]) -> tuple[set[str], bool]:
    """Names of parameters, those behind a class's `**kwargs` included; whether any other is taken."""
    names: set[str] = set()
    makers = [target]
    if isinstance(target, type):
        makers = [vars(kind)["__init__"] for kind in target.__mro__ if "__init__" in vars(kind)]
    for make in makers:
        taken = inspect.signature(make).parameters.values()
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names |= {one.name for one in taken if one.kind in named}
        if not any(one.kind is one.VAR_KEYWORD for one in taken):
            return names - {"self"}, False
    return names - {"self"}, True


def _name(target: Any) -> str:
    return getattr(target, "__qualname__", str(target))
