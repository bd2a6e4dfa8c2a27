"""Python files of the user's own that make more families of encoders known."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from autogaze.errors import EncoderError


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
