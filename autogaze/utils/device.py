"""Device and precision of models, as options name them; release of freed host memory."""

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from autogaze.errors import AutoGazeError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class DeviceOptions:
    """Device and precision of a model."""

    device: torch.device
    dtype: torch.dtype = torch.float32

    @classmethod
    def parse(cls, device: str, dtype: str = "float32") -> "DeviceOptions":
        """The options of names.

        Raises:
            AutoGazeError: an unknown precision, or a device that is neither cpu nor an
                available cuda.
        """
        if dtype not in DTYPES:
            raise AutoGazeError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if device.partition(":")[0] not in ("cpu", "cuda"):
            raise AutoGazeError(f"device must be cpu or cuda, got {device!r}")
        try:
            found = torch.device(device)
        except RuntimeError:
            raise AutoGazeError(f"device must be cpu or cuda, got {device!r}") from None
        if found.type == "cuda" and not torch.cuda.is_available():
            raise AutoGazeError(f"device {device!r}: there is no CUDA device here")
        return cls(found, DTYPES[dtype])

    def __str__(self) -> str:
        return f"{self.device} {str(self.dtype).removeprefix('torch.')}"


def without_autocast(device: torch.device) -> torch.autocast:
    """Context in which autocast is off: for what has a precision of its own."""
    return torch.autocast(device.type, enabled=False)


def trim_memory() -> None:
    """Return free pages of the heap to the system, where the C library is glibc.

    Frames of changing sizes are allocated in several threads (decoder, encoders, drawing), each
    with its own heap, whose fragmentation grows: a fifth of all memory after some hundred
    frames with all pictures.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
