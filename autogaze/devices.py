"""Device and precision as they are named on the command line."""

from dataclasses import dataclass

import torch

from autogaze.errors import AutoGazeError

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
