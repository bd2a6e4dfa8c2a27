"""The stages of encoding a video, and what watches them pass: a stopwatch or a memory gauge."""

import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

import torch

from autogaze.utils.device import give_back

# Peak memory: of the process on Linux as its kernel keeps it, of a GPU as torch does.

_PROCESS = Path("/proc/self")


class Gauge:
    """Reads how much memory is held, and the most that was held since a restart."""

    method = "cannot be measured here"

    def restart(self) -> int | None:
        """Let go of what is free, begin a new peak; the bytes held now."""
        return None

    def peak(self) -> int | None:
        """The most bytes held since `restart`."""
        return None


class ProcessGauge(Gauge):
    """Resident memory of this process.

    The kernel keeps the peak itself (VmHWM), so nothing is missed between two looks. Free
    pages that the allocator holds back are returned first: they would hide a new peak.
    """

    method = "peak resident memory of the process (VmHWM, reset before each stage)"

    def restart(self) -> int | None:
        give_back()
        (_PROCESS / "clear_refs").write_text("5")  # resets VmHWM to what is resident now
        return self._status("VmRSS")

    def peak(self) -> int | None:
        return self._status("VmHWM")

    @staticmethod
    def _status(key: str) -> int:
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith(key + ":"):
                return 1024 * int(line.split()[1])
        raise OSError(f"no {key} in /proc/self/status")


class CudaGauge(Gauge):
    """Memory that torch has handed out on one GPU; what the process holds is left out."""

    method = "torch.cuda.max_memory_allocated, reset before each stage"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def restart(self) -> int:
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)


def gauge_of(device: torch.device) -> Gauge:
    """The gauge for what runs on a device; one that says None where there is no way."""
    if device.type == "cuda":
        return CudaGauge(device)
    gauge = ProcessGauge()
    try:
        gauge.restart()
        gauge.peak()
    except OSError:  # no Linux, or a sandbox without these files
        return Gauge()
    return gauge


# Timing on the machine at hand: warm-up, medians, and what its arithmetic can do.


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of repeated runs."""

    median: float
    fastest: float
    slowest: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        return cls(statistics.median(seconds), min(seconds), max(seconds))


def timed(run: Callable[[], object], repeats: int, warmup: int = 1) -> Timing:
    """Run `warmup` times unmeasured, then `repeats` times."""
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(repeats):
        synchronize()
        began = time.perf_counter()
        run()
        synchronize()
        seconds.append(time.perf_counter() - began)
    return Timing.of(seconds)


def synchronize() -> None:
    """Wait for the GPU, if there is one, so that a clock can be read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP a second of a size x size matrix product, the median of several."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b, repeats=7, warmup=2).median


def hardware(device: torch.device) -> str:
    """The name and size of what is measured, for the head of a table."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{_cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


Value = TypeVar("Value")


class Stage(StrEnum):
    """What is done to a video, in its order.

    Preprocessing is resizing, cutting tiles and normalising; embedding is all up to the
    first transformer block; encoding is the blocks and what pools their output.
    """

    DECODE = "decode"
    PREPROCESS = "preprocess"
    SELECT = "select"
    EMBED = "embed"
    ENCODE = "encode"


SEEING = (Stage.SELECT, Stage.EMBED, Stage.ENCODE)
"""The stages in which gazed and dense encoding differ."""


@dataclass(frozen=True)
class ByStage(Generic[Value]):
    """One value for each stage."""

    decode: Value
    preprocess: Value
    select: Value
    embed: Value
    encode: Value

    @classmethod
    def of(cls, value: Callable[[Stage], Value]) -> "ByStage[Value]":
        return cls(*(value(stage) for stage in Stage))

    def __getitem__(self, stage: Stage) -> Value:
        return getattr(self, stage.value)

    def __iter__(self) -> Iterator[Value]:
        return (self[stage] for stage in Stage)


class Meter:
    """Told when a stage begins, which ends the one before it; this one measures nothing."""

    def enter(self, stage: Stage) -> None:
        """`stage` begins; it may have been entered before and is added to."""

    def stop(self) -> None:
        """No stage is running from here on."""


class Stopwatch(Meter):
    """Wall-clock seconds of every stage; waits for the GPU at every border.

    Attributes:
        seconds: spent up to now.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(Stage, 0.0)
        self._device = device
        self._running: Stage | None = None
        self._began = 0.0

    def enter(self, stage: Stage) -> None:
        self.stop()
        self._running, self._began = stage, time.perf_counter()

    def stop(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        if self._running is not None:
            self.seconds[self._running] += time.perf_counter() - self._began
        self._running = None

    def of(self, *stages: Stage) -> float:
        """Seconds of some stages together."""
        return sum(self.seconds[stage] for stage in stages)


class PeakMeter(Meter):
    """The most memory held during every stage, above what was held when this was made.

    So the weights do not count, and what a stage is handed by the one before it does.

    Attributes:
        peaks: bytes; 0 for stages that did not come; None where it cannot be told.
    """

    def __init__(self, gauge: Gauge) -> None:
        self.peaks: dict[Stage, int | None] = dict.fromkeys(Stage, 0)
        self._gauge = gauge
        gc.collect()  # once: it takes long, and tensors do not wait for it
        self._base = gauge.restart()
        self._running: Stage | None = None

    def enter(self, stage: Stage) -> None:
        self.stop()
        self._gauge.restart()
        self._running = stage

    def stop(self) -> None:
        if self._running is not None:
            peak, before = self._gauge.peak(), self.peaks[self._running]
            known = peak is not None and before is not None and self._base is not None
            self.peaks[self._running] = max(before, peak - self._base) if known else None  # type: ignore[type-var,operator]
        self._running = None
