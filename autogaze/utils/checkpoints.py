"""Checkpoints: configurations, state dicts and strict loading.

A checkpoint is a folder with `config.json` and weights, whole or in shards, or a file with a
state dict alone. Nothing in one is ever executed: weights are safetensors, or files of
`torch.save` (.pt) of which only tensors are read. Weights that are NaN or infinite are refused.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from autogaze.errors import CheckpointError, first_line
from autogaze.utils.hub import CONFIG, CONVERT, no_weights, weight_files

State = Mapping[str, Tensor]
"""A state dict: tensors by the names of parameters and buffers."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a state dict's tensors by name."""

_NAMES_LISTED = 5
"""Number of parameters that an error lists by name; the others are counted."""


def config_file(checkpoint: Path) -> Path:
    """Path of `config.json`: in a checkpoint's folder, or beside its file."""
    return (checkpoint if checkpoint.is_dir() else checkpoint.parent) / CONFIG


def read_config(checkpoint: Path) -> dict[str, Any]:
    """The values of a checkpoint's `config.json`.

    Raises:
        CheckpointError: there is none, or it is no JSON object.
    """
    try:
        return read_json(config_file(checkpoint))
    except FileNotFoundError:
        raise CheckpointError(
            f"{checkpoint}: no {CONFIG} says what shape the model has; give its configuration"
        ) from None


def read_json(file: Path) -> dict[str, Any]:
    """The values of one of a checkpoint's JSON files.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is no JSON object.
    """
    try:
        values = json.loads(file.read_text())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: holds {type(values).__name__}, expected an object")
    return values


def read_state(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Args:
        checkpoint: a file of weights, or a folder with one or several.

    Raises:
        CheckpointError: no weights, or none that can be read.
    """
    files = weight_files(checkpoint) if checkpoint.is_dir() else [checkpoint]
    if not files:
        raise no_weights(checkpoint)
    state: dict[str, Tensor] = {}
    for file in files:  # a shard that is missing is found by strict loading
        state |= _read_weights(file)
    return state


def read_torch_file(path: Path) -> Any:
    """The content of a file of `torch.save`, on the CPU: tensors and plain values only.

    Raises:
        CheckpointError: it cannot be read, or holds anything else, which could run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # torch's own message advises to load it unsafely
        raise CheckpointError(
            f"{path}: cannot be read: it holds more than tensors and plain values, and loading "
            "anything else could run code"
        ) from None
    except Exception as error:  # torch raises many kinds, none of them documented
        raise CheckpointError(f"{path}: cannot be read: {first_line(error)}") from error


def load_strictly(
    module: nn.Module,
    state: State,
    source: str | Path,
    *,
    names: Collection[str] | None = None,
    hint: str = "",
    replace: bool = False,
) -> None:
    """Load a state dict that must fit exactly; otherwise the module stays unchanged.

    Its names may all begin with those of wrappers (`wrapper_prefix`).

    Args:
        module: where the tensors go.
        state: parameters and buffers by name.
        source: where the state comes from, for errors.
        names: the parameters and buffers that `state` must consist of; by default all.
        hint: advice for errors.
        replace: make the tensors the module's own, instead of copying their values into it.

    Raises:
        CheckpointError: parameters are missing, unexpected, of other shapes, or not finite.
    """
    own = shapes(module.state_dict())
    state = without_wrappers(state, own.__contains__)
    check_shapes(own, shapes(state), source, names=names, hint=hint)
    check_finite(state, source)
    module.load_state_dict(dict(state), strict=names is None, assign=replace)


def shapes(state: State) -> Shapes:
    """The shapes of a state dict's tensors."""
    return {name: tuple(value.shape) for name, value in state.items()}


def check_shapes(
    own: Shapes,
    found: Shapes,
    source: str | Path,
    *,
    names: Collection[str] | None = None,
    hint: str = "",
) -> None:
    """Raise CheckpointError unless the tensors found have a module's own shapes.

    Arguments as of `load_strictly`.
    """
    wanted = own.keys() if names is None else names
    problems = describe_mismatch(
        missing=[name for name in wanted if name not in found],
        unexpected=[name for name in found if name not in wanted],
        misshapen=[
            f"{name} {found[name]} instead of {own[name]}"
            for name in wanted
            if name in found and found[name] != own[name]
        ],
    )
    if problems:
        raise CheckpointError(
            f"{source}: the weights do not fit the architecture: {problems}"
            + (f". {hint}" if hint else "")
        )


def check_finite(state: State, source: str | Path) -> None:
    """Raise CheckpointError where some weights are NaN or infinite."""
    wrong = sorted(
        name
        for name, value in state.items()
        if value.is_floating_point() and not value.isfinite().all()
    )
    if wrong:
        more = ", ..." if len(wrong) > _NAMES_LISTED else ""
        raise CheckpointError(
            f"{source}: {len(wrong)} weights are NaN or infinite "
            f"({', '.join(wrong[:_NAMES_LISTED])}{more}): the training that wrote them diverged, or "
            "the file is damaged; take an earlier checkpoint"
        )


def describe_mismatch(
    *, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str]
) -> str:
    """Description of parameters that do not fit, counted and named; empty where all fit."""
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    parts = []
    for kind, found in kinds.items():
        names = sorted(found)
        if names:
            more = ", ..." if len(names) > _NAMES_LISTED else ""
            parts.append(f"{len(names)} {kind} ({', '.join(names[:_NAMES_LISTED])}{more})")
    return "; ".join(parts)


def check_loaded(source: str | Path, info: Mapping[str, Any], *, own: str | None = None) -> None:
    """Raise CheckpointError, naming them, where transformers left weights at random.

    Args:
        source: where they come from, for errors.
        info: transformers' loading info, with mismatched sizes ignored.
        own: prefix of names of which none may be left over either.
    """
    misshapen = misshapen_weights(info)
    problems = describe_mismatch(
        missing=set(info["missing_keys"]) - set(misshapen),
        unexpected=[k for k in info["unexpected_keys"] if own is not None and k.startswith(own)],
        misshapen=misshapen.values(),
    )
    if problems:
        raise CheckpointError(unfit(source, problems, info))


def misshapen_weights(info: Mapping[str, Any]) -> dict[str, str]:
    """By their names, the weights of another shape in transformers' loading info, with both shapes."""
    # transformers 5 gives a mismatch as (name, shape found, shape expected), 4 by its name.
    described = {}
    for entry in info["mismatched_keys"]:
        key, *found = [entry] if isinstance(entry, str) else entry
        described[key] = f"{key} {' instead of '.join(str(tuple(size)) for size in found)}".strip()
    return described


def unfit(source: str | Path, problems: str, info: Mapping[str, Any]) -> str:
    """The message about a checkpoint whose weights are not those of its `config.json`.

    Args:
        info: transformers' loading info.
    """
    prefix = wrapper_prefix(info["unexpected_keys"], set(info["missing_keys"]).__contains__)
    advice = "correct config.json or take a whole checkpoint"
    if prefix:
        mapping = {f"^{re.escape(prefix)}": ""}
        advice = (
            f"all names begin with {prefix!r}, as of a model inside of another: save the state dict "
            f"of the model alone or, with transformers 5, give from_pretrained key_mapping={mapping}"
        )
    return (
        f"{source}: the weights do not fit config.json: {problems}. Nothing is filled in at "
        f"random: {advice}"
    )


def without_wrappers(state: Mapping[str, Any], is_own: Callable[[str], bool]) -> dict[str, Any]:
    """The tensors of a state dict under a module's own names; see `wrapper_prefix`."""
    return under_prefix(state, wrapper_prefix(state, is_own))


def wrapper_prefix(names: Iterable[str], is_own: Callable[[str], bool]) -> str:
    """What all names begin with before a module's own: "" unless it was saved inside of others.

    Such are `module.` of `DistributedDataParallel`, `_orig_mod.` of `torch.compile`, `model.` of a
    Lightning module; also several, one inside of the other.

    Args:
        is_own: whether a name is one of the module's own.
    """
    prefix, names = "", list(names)
    while names and not any(map(is_own, names)):
        heads = {name.partition(".")[0] for name in names}
        if len(heads) > 1 or heads & {*names}:
            return ""
        (head,) = heads
        prefix += f"{head}."
        names = [name.removeprefix(f"{head}.") for name in names]
    return prefix


def safetensors_shapes(path: Path) -> Shapes:
    """Shapes of a safetensors file's tensors by name, read from its header alone.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises several kinds, none of them documented
        raise CheckpointError(f"{path}: cannot be read: {first_line(error)}") from error


def under_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors whose names start with a prefix, under their names without it."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # safetensors raises several kinds, none of them documented
            raise CheckpointError(f"{path}: cannot be read: {first_line(error)}") from error
    if path.suffix == ".bin":
        raise CheckpointError(f"{path}: cannot be read. {CONVERT}")
    state = read_torch_file(path)
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, not a state dict")
    return dict(state)
