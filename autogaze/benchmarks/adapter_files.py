"""Python files of the user's own that make more families of encoders known, and their faults."""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autogaze.errors import AutoGazeError, EncoderError
from autogaze.vision_encoders.registry import adapter_class, is_registered


def run_adapter_files(paths: Sequence[str]) -> None:
    """Run each as a module; what it registers with `register_encoder` is known from then on.

    Raises:
        EncoderError: there is no such file, it is no Python, or it raises.
    """
    for number, path in enumerate(paths):
        if not Path(path).is_file():
            raise EncoderError(f"--adapter {path}: there is no such file")
        spec = importlib.util.spec_from_file_location(f"autogaze_adapter_{number}", path)
        if spec is None or spec.loader is None:
            raise EncoderError(f"--adapter {path}: the name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module  # dataclasses and pickles look there
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # anything may go wrong in a file of the user's
            raise EncoderError(
                f"--adapter {path}: cannot be run: {type(error).__name__}: {error}"
            ) from error


@contextmanager
def blamed_on_adapter(config: Any) -> Iterator[None]:
    """Where a registered adapter is used: what is raised is laid at its door.

    Args:
        config: the configuration of the model that it is used on.

    Raises:
        EncoderError: for any exception that is none of AutoGaze's own. Adapters that come
            with AutoGaze are not blamed; what they raise passes.
    """
    try:
        yield
    except AutoGazeError:
        raise
    except Exception as error:  # anything may go wrong in a class of the user's
        if not is_registered(config):
            raise
        raise EncoderError(
            f"the adapter {adapter_class(config).__name__} that was registered for "
            f"{config.model_type!r} fails: {type(error).__name__}: {error}; "
            "docs/encoders.md says which parts an adapter has to name"
        ) from error
