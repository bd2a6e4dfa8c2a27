"""The model under evaluation: how it is loaded, and what is remembered of it beside its answers."""

import hashlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol, runtime_checkable

from autogaze.errors import EvaluationError
from autogaze.evaluation.answers.answering import MAX_NEW_TOKENS, Answerer, Condition
from autogaze.utils.modules import run_python_file

LIBRARIES = ("autogaze", "torch", "transformers", "av")
UNITS = ("finest", "scales", "union")


@dataclass(frozen=True)
class AnswererOptions:
    """How a model sees videos, whatever the condition.

    Attributes:
        frames: sampled from every video; None for the model's own number.
        units: how a gaze becomes units of the model, one of `UNITS`.
        seed: of selectors that draw.
    """

    frames: int | None = None
    units: str = "finest"
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0


@runtime_checkable
class AnswererMaker(Protocol):
    """A loaded model, which answers under any condition."""

    def __call__(self, condition: Condition, max_new_tokens: int = MAX_NEW_TOKENS) -> Answerer:
        """The model under a condition; its weights are not loaded again."""


def load_answerer(model: str, options: AnswererOptions) -> AnswererMaker:
    """Load a multimodal LLM that answers questions.

    Args:
        model: its folder or hub id.

    Raises:
        EvaluationError: no model of this package answers questions yet.
    """
    raise EvaluationError(
        f"{model}: answers of multimodal LLMs are not built into this version; give a Python file that "
        "loads the model (--answerer FILE, see docs/evaluation.md)"
    )


def load_answerer_of(path: str) -> Callable[[str, AnswererOptions], AnswererMaker]:
    """`load_answerer` of a Python file, for models of one's own.

    Raises:
        EvaluationError: no such file, it cannot be run, or it has no such function.
    """
    found = getattr(run_python_file(path, "--answerer", EvaluationError), "load_answerer", None)
    if not callable(found):
        raise EvaluationError(
            f"--answerer {path}: defines no load_answerer(model, options), which loads a model that answers"
        )
    load: Callable[[str, AnswererOptions], AnswererMaker] = found
    return load


def model_identity(model: str) -> str:
    """What tells a model from others: a hub id, or a hash of a folder's configs and weights.

    Of large files only both ends are read, so that other weights under the same name are noticed.
    """
    folder = Path(model)
    if not os.path.isdir(folder):
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".json", ".safetensors") or not file.is_file():
            continue
        size, end = file.stat().st_size, 2**16
        digest.update(f"{file.name} {size}\n".encode())
        with open(file, "rb") as opened:
            digest.update(opened.read(end))
            opened.seek(max(end, size - end))
            digest.update(opened.read(end))
    return f"{folder.resolve().name} ({digest.hexdigest()[:12]})"


def describe_session(device: str) -> dict[str, str]:
    """Hardware and versions of this process."""
    import torch

    from autogaze.evaluation.timing import hardware

    session = {"hardware": hardware(torch.device(device)), "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            session[library] = version(library)
        except PackageNotFoundError:  # run from its sources
            continue
    return session
