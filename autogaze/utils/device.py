"""Devices: their names and precisions, tensors on them, their memory and batches that it holds."""

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from autogaze.checks import describe_value
from autogaze.errors import AutoGazeError, first_line

Result = TypeVar("Result")

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Kinds of device that options name; "auto" is a CUDA GPU where there is one, else the CPU."""


@dataclass(frozen=True)
class DeviceOptions:
    """Device and precision of a model."""

    device: torch.device
    dtype: torch.dtype = torch.float32

    @classmethod
    def parse(
        cls, device: str | torch.device = "auto", dtype: str | torch.dtype = "float32"
    ) -> "DeviceOptions":
        """The options of names, as the command line takes them, or of torch's own objects.

        Args:
            device: one of `DEVICES`, or with a number, such as "cuda:1".
            dtype: one of `DTYPES`.

        Raises:
            AutoGazeError: an unknown name, a device that is not here, or a precision that it
                lacks.
        """
        known = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
        if known is None or known not in DTYPES.values():
            raise AutoGazeError(f"dtype must be one of {', '.join(DTYPES)}, got {_named(dtype)}")
        options = cls(_available(device), known)
        if known != torch.float32:
            options.check_precision()
        if (options.device.type, known) == ("cpu", torch.float16):
            log.warning("float16 is many times slower than float32 on a CPU; bfloat16 is not")
        return options

    def check_precision(self) -> None:
        """Raise `AutoGazeError` unless the device multiplies matrices of this precision."""
        try:
            small = torch.ones(8, 8, device=self.device, dtype=self.dtype)
            (small @ small).sum().item()
        except (RuntimeError, TypeError) as error:
            raise AutoGazeError(
                f"{self.device} does not compute in {str(self.dtype).removeprefix('torch.')} "
                f"({first_line(error)}); take float32"
            ) from error

    def __str__(self) -> str:
        return f"{self.device} {str(self.dtype).removeprefix('torch.')}"


def _available(device: str | torch.device) -> torch.device:
    """The device of a name, which is here.

    Raises:
        AutoGazeError: an unknown name, or no such device.
    """
    name = str(device) if isinstance(device, str | torch.device) else None
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if name is None or name.partition(":")[0] not in DEVICES:
            raise ValueError
        found = torch.device(name)
    except (RuntimeError, ValueError):
        raise AutoGazeError(
            f"device must be one of {', '.join(DEVICES)}, perhaps with a number as in cuda:1, got "
            f"{_named(device)}"
        ) from None
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type == "mps":
        number, kind = int(torch.backends.mps.is_available()), "GPU of Apple's"
    else:
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
        kind = "CUDA GPU"
    if (found.index or 0) >= number:
        there = f"there is no {kind} here" if not number else f"there are {number} here, from 0"
        raise AutoGazeError(f"device {name!r}: {there}; take auto or cpu")
    return found


def _named(value: Any) -> str:
    """A device or precision for a message: torch's own as they are written, else any value."""
    return str(value) if isinstance(value, torch.device | torch.dtype) else describe_value(value)


def exact(dtype: torch.dtype) -> torch.dtype:
    """The precision of what must not be rounded to a half: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def autocast(options: DeviceOptions) -> torch.autocast:
    """Context in which matrix products are of a half precision, norms and softmax of float32."""
    enabled = options.dtype != torch.float32
    return torch.autocast(options.device.type, options.dtype if enabled else None, enabled)


def without_autocast(device: torch.device) -> torch.autocast:
    """Context in which autocast is off: for what has a precision of its own."""
    return torch.autocast(device.type, enabled=False)


def stream_number(device: torch.device) -> int:
    """Number of the stream that this thread's work on a device goes to; what other streams do may overtake it."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on a device, without waiting for what the device is doing."""
    if device.type in ("cpu", "mps") or values.device.type != "cpu":
        return values.to(device)
    if device.type == "cuda":  # from other memory a copy waits all the same
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def moved(value: Any, device: torch.device | str | int, *, non_blocking: bool = False) -> Any:
    """A value with all tensors in it, in lists, tuples and dicts too, on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, list | tuple):
        parts = [moved(part, device, non_blocking=non_blocking) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, Mapping):
        return {key: moved(part, device, non_blocking=non_blocking) for key, part in value.items()}
    return value


@lru_cache(maxsize=64)
def constant(
    values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Numbers on a device, copied there once: a GPU is waited for with every copy from a list."""
    with torch.inference_mode(False):  # kept, so usable in every mode
        return torch.tensor(values, dtype=dtype, device=device)


def free_memory(device: torch.device) -> int | None:
    """Bytes of a GPU that PyTorch could still allocate; None for a CPU, whose memory is shared."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # What PyTorch holds and nobody uses is as good as free. All numbers are asked for at once, since
    # `memory_reserved` and `memory_allocated` sort all of them anew.
    held = torch.cuda.memory_stats_as_nested_dict(device)
    reserved, allocated = (
        held.get(name, {}).get("all", {}).get("current", 0)
        for name in ("reserved_bytes", "allocated_bytes")
    )
    return int(free + reserved - allocated)


def num_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


class BatchSize:
    """Size of batches, halved once, for all that follows, where memory does not hold one.

    Args:
        what: the items of a batch, for messages: "tiles".
        advice: which budget to lower, for messages.
        error: raised where half is too large as well.

    Attributes:
        halved: the size since memory was too small; None before.
    """

    def __init__(self, what: str, advice: str, error: type[AutoGazeError] = AutoGazeError) -> None:
        self._what, self._advice, self._error = what, advice, error
        self.halved: int | None = None

    def run(
        self,
        size: int,
        work: Callable[[int], Result],
        generator: torch.Generator | None = None,
    ) -> Result:
        """`work(size)`, done anew with half the size where memory is too small for it.

        Args:
            size: of a batch, at least 1; no more than was halved to before.
            generator: what `work` draws from; the second time it draws the same numbers.

        Raises:
            AutoGazeError: memory is too small for half the size, too, or for one item.
        """
        if self.halved is not None:
            size = min(size, self.halved)
        state = None if generator is None else generator.get_state()
        try:
            return work(size)
        except torch.OutOfMemoryError as error:
            if self.halved is not None or size == 1:
                raise self._error(
                    f"no memory for {size} {self._what} at once; {self._advice}, or free memory of "
                    "the device"
                ) from error
        # Not in the handler: the error holds what the work had allocated.
        torch.cuda.empty_cache()
        if generator is not None and state is not None:
            generator.set_state(state)
        self.halved = -(-size // 2)
        log.warning("no memory for %d %s at once: taking %d", size, self._what, self.halved)
        return self.run(size, work, generator)
