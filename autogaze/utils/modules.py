"""Python files of the user's, which options name."""

import importlib.util
import os
import sys
from types import ModuleType

from autogaze.checks import why_absent
from autogaze.errors import AutoGazeError


def run_python_file(path: str, option: str, error: type[AutoGazeError]) -> ModuleType:
    """The module that a Python file makes.

    Args:
        option: that named it, for errors.

    Raises:
        error: there is no such file, it is no Python, or it raises.
    """
    if not os.path.isfile(path):
        raise error(f"{option} {path}: {why_absent(path)}")
    name = f"autogaze_{option.strip('-')}_{abs(hash(os.path.abspath(path)))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error(f"{option} {path}: the name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look there
    try:
        spec.loader.exec_module(module)
    except Exception as cause:  # anything may go wrong in a file of the user's
        raise error(f"{option} {path}: cannot be run: {type(cause).__name__}: {cause}") from cause
    return module
