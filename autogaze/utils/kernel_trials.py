"""Kernels in Triton are tried where they are to run, before anything depends on them."""

from collections.abc import Callable

import torch


def failure_of(trial: Callable[[], str]) -> str:
    """Why kernels cannot be used; nothing where they can.

    Args:
        trial: runs them, and says what is wrong with their results; nothing if they are right.

    Raises:
        torch.OutOfMemoryError: there is no memory for the trial, which says nothing of the kernels.
    """
    try:
        with torch.device("cpu"):  # where trials draw their numbers, whatever device is the default
            return trial()
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:
        return f"Triton is not installed ({error}): pip install 'autogaze[gpu]'"
    except Exception as error:  # of a compiler, a driver, or a GPU that is too old
        return f"Triton cannot run it: {type(error).__name__}: {error}"
