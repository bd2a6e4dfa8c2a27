"""Whole collections of videos: gazed at by Ray's workers, kept as Parquet, read back as `Gaze` objects.

    corpus = autogaze.corpus.read("corpus/")  # what `autogaze corpus videos/ --out corpus/` wrote
    gaze = corpus["/data/videos/one.mp4"]

Names are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autogaze.corpus.dataset import GazeDataset
    from autogaze.corpus.reading import Corpus, read

__all__ = ["Corpus", "GazeDataset", "read"]

_HOMES = {"Corpus": "reading", "GazeDataset": "dataset", "read": "reading"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autogaze.corpus' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"autogaze.corpus.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
