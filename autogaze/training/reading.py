"""From plain dicts, as configuration files give them, to typed frozen options."""

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from autogaze.errors import TrainingError

Options = TypeVar("Options")

OTHER_WORDS = {
    "lr": ("learning_rate", "lr_rate"),
    "min_lr": ("min_learning_rate", "end_lr", "final_lr"),
    "lr_schedule": ("scheduler", "lr_scheduler", "lr_scheduler_type", "schedule"),
    "warmup_ratio": ("warmup", "warmup_steps"),
    "weight_decay": ("wd", "decay"),
    "max_grad_norm": ("grad_clip", "clip_grad", "clip_grad_norm", "gradient_clip_val"),
    "mixed_precision": ("precision", "dtype", "amp", "bf16", "fp16"),
    "n_epochs": ("epochs", "num_epochs", "max_epochs", "num_train_epochs"),
    "max_steps": ("steps", "n_steps", "num_steps", "max_iters", "iterations"),
    "batch_size": ("bs", "train_batch_size", "global_batch_size"),
    "per_gpu_max_batch_size": ("micro_batch_size", "per_device_train_batch_size"),
    "num_workers": ("workers", "dataloader_num_workers"),
    "exp_name": ("name", "run_name", "experiment"),
    "exp_folder": ("output_dir", "out_dir", "save_dir", "folder"),
    "resume": ("resume_from", "resume_from_checkpoint"),
    "save_nsteps": ("save_steps", "save_every", "save_interval"),
    "val_nsteps": ("eval_steps", "val_every", "val_interval"),
    "log_nsteps": ("logging_steps", "log_every", "log_interval"),
    "tracker": ("logger", "report_to", "log_with"),
    "val_only": ("eval_only", "validate_only"),
    "gaze_weights": ("weights", "checkpoint", "init_from"),
    "group_size": ("num_generations", "num_samples"),
    "discount_factor": ("gamma", "discount"),
    "root": ("path", "folder", "data_root", "data_dir", "roots"),
    "clip_len": ("num_frames", "frames", "clip_frames"),
    "gt_gazing_pos_paths": ("labels", "label_file", "gaze_labels"),
}
"""What options are called elsewhere."""


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
            raise TrainingError(unknown_option(group, name, fields))
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


def unknown(what: str, name: str, known: Iterable[str], group: str = "") -> str:
    """The message for a name that means nothing.

    Args:
        what: what it was to be, and the name.
        known: names that mean something.
        group: what stands before the name that is proposed: `trainer.`
    """
    known = sorted(known)
    close = [word for word in known if name in OTHER_WORDS.get(word, ())]
    close = close or difflib.get_close_matches(name, known, 1)
    hint = f" (did you mean {group}{close[0]}?)" if close else ""
    return f"unknown {what}{hint}: known are {', '.join(known)}"


def unknown_option(group: str, name: str, known: Iterable[str]) -> str:
    """The message for an option that a group does not have."""
    return unknown(f"option {group}.{name}", name, known, f"{group}.")


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
