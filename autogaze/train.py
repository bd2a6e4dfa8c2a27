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
import sys
from typing import TYPE_CHECKING, Any

from autogaze.errors import AutoGazeError, MissingExtraError
from autogaze.training.config import unknown_option
from autogaze.training.option_names import for_hydra

if TYPE_CHECKING:
    from omegaconf import DictConfig

DEFAULT_CONFIG = "procedural_canvas_reconstruction_ar_gaze_ntp"
"""What is trained when no `--config-name` is given: needs no data."""


def train(config: "DictConfig") -> None:
    """Train by a composed configuration."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from autogaze.training.factory import build_trainer

    try:
        options: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        build_trainer(options).fit()
    except (AutoGazeError, MissingExtraError, OmegaConfBaseException) as error:
        raise SystemExit(f"autogaze.train: {error}") from error


def main() -> None:
    """The command line."""
    try:
        import accelerate  # noqa: F401 - better now than after everything was read
        import hydra
    except ImportError as error:
        package = {"hydra": "hydra-core"}.get(error.name or "", error.name or "hydra-core")
        sys.exit(str(MissingExtraError(package, "train", "autogaze.train")))
    from hydra.errors import HydraException

    logging.getLogger("autogaze").setLevel(logging.INFO)
    wants_traces = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra itself prints what is reported better here
    sys.argv = for_hydra(sys.argv)
    try:
        hydra.main(version_base="1.3", config_path="configs", config_name=DEFAULT_CONFIG)(train)()
    except HydraException as error:
        if wants_traces:
            raise
        sys.exit(f"autogaze.train: {_misnamed(error) or error}")


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
