"""Training from configurations.

```
python -m autogaze.train --config-name procedural_canvas_reconstruction_ar_gaze_ntp trainer.seed=1
torchrun --nproc-per-node 8 -m autogaze.train --config-name ... dataset.root=/data/videos
```

The names are those of `autogaze/configs`; everything in them can be overridden as in Hydra
(`docs/training.md`).
"""

import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autogaze.errors import AutoGazeError, MissingExtraError, first_line
from autogaze.training.config import unknown_option
from autogaze.training.option_names import GROUPS, for_hydra

if TYPE_CHECKING:
    from omegaconf import DictConfig

DEFAULT_CONFIG = "procedural_canvas_reconstruction_ar_gaze_ntp"
"""What is trained when no `--config-name` is given: needs no data."""


def train(config: "DictConfig") -> None:
    """Train by a composed configuration."""
    import torch
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from autogaze.trainer import leave_group
    from autogaze.training.factory import build_trainer

    try:
        options: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        build_trainer(options).fit()
        leave_group()
    except (AutoGazeError, MissingExtraError, OmegaConfBaseException) as error:
        raise _refusal(str(error)) from error
    except torch.OutOfMemoryError as error:
        less = "Lower trainer.per_gpu_max_batch_size, or take trainer.mixed_precision=bf16"
        raise _refusal(f"{first_line(error)} {less}") from error


def main() -> None:
    """The command line."""
    try:
        import accelerate  # noqa: F401 - better now than after everything was read
        import hydra
    except ImportError as error:
        package = {"hydra": "hydra-core"}.get(error.name or "", error.name or "hydra-core")
        raise _refusal(str(MissingExtraError(package, "train", "autogaze.train"))) from error
    from hydra.errors import HydraException

    logging.getLogger("autogaze").setLevel(logging.INFO)
    wants_traces = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra itself prints what is reported better here
    sys.argv = for_hydra(sys.argv)
    try:
        _check_groups(sys.argv[1:])
        hydra.main(version_base="1.3", config_path="configs", config_name=DEFAULT_CONFIG)(train)()
    except HydraException as error:
        if wants_traces:
            raise
        raise _refusal(_misnamed(error) or str(error)) from error


BAD_INPUT = 2
"""The exit code of wrong options, files and data, as that of the other commands."""


def _refusal(message: str) -> SystemExit:
    """The end of the program with this message on stderr."""
    message = f"autogaze.train: {message}"
    print(message, file=sys.stderr)
    refusal = SystemExit(message)
    refusal.code = BAD_INPUT
    return refusal


def _check_groups(words: Sequence[str]) -> None:
    """End the program where a group of options is overridden by what names no file, or removed.

    Hydra ends in a ValueError for numbers, and drops the group for an empty list. Without a group all
    its options would silently have the defaults of the code.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for word in words:
        if word.startswith("~") and (group := re.split("[=@]", word[1:])[0]) in GROUPS:
            raise _refusal(
                f"{word}: {group} cannot be removed; name another file of configs/{group} with "
                f"{group}=NAME, or give single options with {group}.NAME=VALUE"
            )
        if word.lstrip("+").partition("=")[0] not in GROUPS or "=" not in word:
            continue
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:  # reported with all others
            continue
        value = override.value()
        names = value if isinstance(value, list) and value else [value]
        if not override.is_sweep_override() and not all(isinstance(name, str) for name in names):
            group = override.key_or_group
            raise _refusal(
                f"{word}: {group} is a group of options, whose value must be the name of a file in "
                f"configs/{group}; single options are given as {group}.NAME=VALUE"
            )


def _misnamed(error: Exception) -> str:
    """The message for an overridden option that no configuration file has; else nothing."""
    from omegaconf import DictConfig
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    cause = error.__cause__
    if not isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return ""
    group = cause.parent_node
    if not isinstance(group, DictConfig) or not cause.full_key or "." not in cause.full_key:
        return ""
    return unknown_option(cause.full_key.rpartition(".")[0], str(cause.key), map(str, group))


if __name__ == "__main__":
    main()
