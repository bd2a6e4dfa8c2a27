"""The `dataset` group: clips for training and validation, by `dataset.name`.

A new dataset is a `ClipSource` in a file here, an entry in `PARTS` (`mixture.py`) and a
config in `configs/dataset`.
"""

from collections.abc import Mapping
from typing import Any

from autogaze.training.reading import choose, read
from autogaze.training.sources.base import ClipSource
from autogaze.training.sources.mixture import PARTS, MixtureSource

DATASETS: dict[str, type[ClipSource]] = {**PARTS, "mixture": MixtureSource}
"""What `dataset.name` can be."""


def read_source(options: Mapping[str, Any]) -> ClipSource:
    """The dataset that the options describe.

    Raises:
        TrainingError: an option that does not exist, or a value that does not fit.
    """
    options = dict(options)
    kind: type[ClipSource] = choose(DATASETS, options.pop("name", "video_folder"), "dataset.name")
    return read(kind, options, "dataset")


__all__ = ["DATASETS", "ClipSource", "read_source"]
