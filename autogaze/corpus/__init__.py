"""Corpora: gazes at whole collections of videos, made on Ray, stored as Parquet, read as `Gaze` objects.

    corpus = autogaze.corpus.read("corpus/")  # what `autogaze corpus videos/ --out corpus/` wrote
    gaze = corpus["/data/videos/one.mp4"]

Names are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autogaze.corpus.reading import Corpus, GazeDataset, read

__all__ = ["Corpus", "GazeDataset", "read"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'autogaze.corpus' has no attribute {name!r}")
    value = getattr(importlib.import_module("autogaze.corpus.reading"), name)
    globals()[name] = value
    return value
