"""Where models run: device and precision as they are named in options, and freed host memory."""

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
        """From names.

        Raises:
            AutoGazeError: no device of the kinds cpu and cuda, one that is not there, or an
                unknown precision.
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


def trim_memory() -> None:
    """Return free pages of the heap to the system; does nothing where the C library is not glibc.

    Frames of changing sizes are made and freed in several threads (decoder, encoders,
    drawing), each with a heap of its own. Free blocks lie scattered between used ones, so that
    glibc keeps more and more of them, although nothing is leaked: a fifth of all memory after
    some hundred frames with all pictures asked for.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
