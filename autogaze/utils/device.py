"""Giving memory back to the system, where the allocator keeps what nobody uses any more."""

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from autogaze.errors import AutoGazeError

# Device and precision as they are named on the command line.

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Place:
    """Where models run, and in what precision."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def parse(cls, device: str, dtype: str) -> "Place":
        """Raises AutoGazeError for what is no device, is not there, or is no known precision."""
        if dtype not in PRECISIONS:
            raise AutoGazeError(f"dtype must be one of {', '.join(PRECISIONS)}, got {dtype!r}")
        where: torch.device | None
        try:
            where = torch.device(device)
        except RuntimeError:
            where = None
        if where is None or where.type not in ("cpu", "cuda"):
            raise AutoGazeError(f"device must be cpu or cuda, got {device!r}")
        if where.type == "cuda" and not torch.cuda.is_available():
            raise AutoGazeError(f"device {device!r}: there is no CUDA device here")
        return cls(where, PRECISIONS[dtype])

    def __str__(self) -> str:
        return f"{self.device} {str(self.dtype).removeprefix('torch.')}"


def give_back() -> None:
    """Return free pages to the system; does nothing where the C library is not glibc.

    Frames of changing sizes are made and freed in several threads (decoder, encoders,
    drawing), each with a heap of its own. What is free lies scattered between what is
    not, so that glibc keeps more and more of it, although nothing is leaked: a fifth of
    all memory after some hundred frames with all pictures asked for.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
