"""Helpers around logs and options that AutoGaze's users import from `autogaze.utils`."""

import builtins
import logging
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autogaze.errors import OutputError
from autogaze.utils.files import replacing


def suppress_print() -> None:
    """Make `print` do nothing in this process, for ranks other than the first."""
    builtins.print = _nothing


def suppress_logging() -> None:
    """Silence the log of this package, and loguru's where it is installed, in this process."""
    log = logging.getLogger("autogaze")
    log.handlers = [logging.NullHandler()]
    log.propagate = False
    if find_spec("loguru") is not None:
        import_module("loguru").logger.remove()


def suppress_wandb() -> None:
    """Make all functions of wandb do nothing in this process; without wandb nothing is to be done."""
    if find_spec("wandb") is None:
        return
    wandb = import_module("wandb")
    for name, value in list(vars(wandb).items()):
        if callable(value) and not name.startswith("_"):
            setattr(wandb, name, _nothing)


def plot_grad_norms(
    named_parameters: Iterable[tuple[str, Tensor]], name_prefix: str = ""
) -> dict[str, float]:
    """Norms of the gradients by parameter name; logged where a run of wandb is active.

    Args:
        named_parameters: `model.named_parameters()`; those without a gradient are left out.
        name_prefix: put before the names.
    """
    norms = {
        f"{name_prefix}{name}": float(torch.linalg.vector_norm(parameter.grad))
        for name, parameter in named_parameters
        if parameter.grad is not None
    }
    log_to_wandb(norms)
    return norms


def has_wandb_run() -> bool:
    """Whether wandb is installed and a run of it is active."""
    return find_spec("wandb") is not None and import_module("wandb").run is not None


def log_to_wandb(values: Mapping[str, Any]) -> None:
    """Log values to the active run of wandb, if there is one."""
    if has_wandb_run():
        import_module("wandb").log(dict(values))


def dump_cfg(cfg: Any, logdir: str | Path) -> Path:
    """Write options to `config.yaml` in a folder that exists; returns its path.

    Args:
        cfg: an OmegaConf configuration, whose interpolations are resolved, or mappings and lists.

    Raises:
        OutputError: it cannot be written.
    """
    import yaml

    path = Path(logdir) / "config.yaml"
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder does not exist; create it first")
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(_plain(cfg), sort_keys=False, allow_unicode=True))
    return path


def format_kwargs(cfg: Any, optional_args: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """The options that a configuration has, under the names of arguments.

    Args:
        cfg: its groups are attributes or keys, and so are their options.
        optional_args: (argument, group, option) of each; those that `cfg` lacks are left out.
    """
    found = {}
    for argument, group, option in optional_args:
        values = _option(cfg, group)
        value = _ABSENT if values is _ABSENT else _option(values, option)
        if value is not _ABSENT:
            found[argument] = value
    return found


_ABSENT = object()


def _option(cfg: Any, name: str) -> Any:
    if isinstance(cfg, Mapping):
        return cfg.get(name, _ABSENT)
    return getattr(cfg, name, _ABSENT)


def _plain(value: Any) -> Any:
    """Dicts, lists and values that YAML knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _nothing(*_: Any, **__: Any) -> None:
    """Takes anything and does nothing."""
