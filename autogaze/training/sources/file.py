"""Dataset options from a file, for what is done with clips outside of training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from autogaze.errors import TrainingError
from autogaze.training.options import TrainerOptions
from autogaze.training.reading import read
from autogaze.training.sources import ClipSource, read_source


class SourceFile(NamedTuple):
    """A dataset, the options that it was read from, and the seed of its training, if known."""

    source: ClipSource
    options: Mapping[str, Any]
    seed: int | None

    @classmethod
    def load(cls, path: str | Path) -> "SourceFile":
        """Read a YAML or JSON file of options of the group `dataset`.

        Or of all groups: an experiment's `config.json` will do.

        Raises:
            TrainingError: no such file, not of this form, or options that do not exist.
        """
        try:
            content = yaml.safe_load(Path(path).read_bytes())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise TrainingError(f"{path}: cannot be read as YAML or JSON: {error}") from error
        groups = content if isinstance(content, Mapping) else {}
        options = groups.get("dataset", content)
        if not isinstance(options, Mapping):
            raise TrainingError(f"{path}: expected the options of a dataset, got {options!r:.80}")
        try:
            seed = read(TrainerOptions, groups.get("trainer") or {}, "trainer").seed
            return cls(read_source(options), options, seed if "trainer" in groups else None)
        except TrainingError as error:
            raise TrainingError(f"{path}: {error}") from error
