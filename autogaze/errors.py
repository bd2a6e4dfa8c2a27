"""Everything AutoGaze raises on purpose, and its warnings of names that have changed.

Every class is also a `ValueError` (or the built-in that fits), so code that
catches built-ins keeps working. Messages say what came, what was expected and
what to do.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any


class AutoGazeError(ValueError):
    """Base class: the input cannot be used as it is."""


class GeometryError(AutoGazeError):
    """Scales, patch size, ids or shapes do not fit together."""


class SelectorError(AutoGazeError):
    """A selector cannot do what was asked of it (unknown name, ratio, loss, frames)."""


class EncoderError(AutoGazeError):
    """A vision encoder cannot encode this gaze, or its family is not supported."""


class MLLMError(AutoGazeError):
    """A multimodal LLM, its prompt, its videos and what was kept of them do not fit together."""


class TrainingError(AutoGazeError):
    """Training cannot start, or go on, as it was configured."""


class DownloadError(AutoGazeError):
    """Models or data cannot be fetched from the Hugging Face hub."""


class EvaluationError(AutoGazeError):
    """A set of questions, or answers to it, cannot be used."""


class CorpusError(AutoGazeError):
    """A collection of videos, or the folder of its gazes, cannot be used."""


class CheckpointError(AutoGazeError):
    """Weights and architecture do not match, or a checkpoint cannot be read."""


class VideoError(AutoGazeError):
    """A file cannot be used as a video; the message names the file and the cause."""


class CorruptVideoError(VideoError):
    """A stream breaks part of the way; the message names the frame."""


class OutputError(AutoGazeError):
    """A result cannot be written; nothing half-written is left behind."""


class MissingExtraError(ImportError):
    """An optional dependency is needed; the message names the extra to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed: pip install 'autogaze[{extra}]'"
        )


class MissingPackageError(MissingExtraError):
    """A package that no extra installs is needed; the message says which."""

    def __init__(self, message: str) -> None:
        ImportError.__init__(self, message)


def first_line(error: Exception) -> str:
    """The first line of an error's message, with the next one after a colon; its type where it has none."""
    first, *others = (str(error).strip() or type(error).__name__).splitlines()
    return f"{first} {others[0].strip()}" if first.endswith(":") and others else first


# Names of earlier versions: those that have changed, and those that are not here any more.


def renaming(old: str, new: str) -> str:
    """The message for users of a former name."""
    return f"{old} is now {new}; the old name goes with the next release"


def warn_renamed(old: str, new: str) -> None:
    """Warn whoever called the function, property or module attribute that calls this."""
    warnings.warn(renaming(old, new), DeprecationWarning, stacklevel=3)


def refuse_names(module: str, absent: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__`: ImportError with the advice for absent names, else AttributeError."""

    def lookup(name: str) -> Any:
        if name in absent:
            raise ImportError(f"{module}: {name} is not in this package: {absent[name]}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return lookup
