"""Time and memory of repeated runs, and of the stages in which a video is encoded."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from autogaze.utils.device import trim_memory


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of repeated runs."""

    median: float
    fastest: float
    slowest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        return cls(statistics.median(seconds), min(seconds), max(seconds))

    def scaled(self, factor: float) -> "Timing":
        return Timing(self.median * factor, self.fastest * factor, self.slowest * factor)


def timed(run: Callable[[], object], repeats: int, warmup: int = 1) -> Timing:
    """Run `warmup` times unmeasured, then `repeats` times."""
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(repeats):
        _synchronize()
        began = time.perf_counter()
        run()
        _synchronize()
        seconds.append(time.perf_counter() - began)
    return Timing.of(seconds)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP per second of a size x size matrix product, the median of several."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b, repeats=7, warmup=2).median


def hardware(device: torch.device) -> str:
    """Name and size of the device, for the head of a table."""
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


class Stage(StrEnum):
    """The stages of encoding a video, in order.

    Preprocessing is resizing, cutting tiles and normalising; embedding is all up to the
    first transformer block; encoding is the blocks and what pools their output.
    """

    DECODE = "decode"
    PREPROCESS = "preprocess"
    SELECT = "select"
    EMBED = "embed"
    ENCODE = "encode"


class Meter:
    """Is called when a stage begins, which ends the one before it; this one measures nothing."""

    def enter(self, stage: Stage) -> None:
        """`stage` begins; what is measured adds to earlier visits of it."""

    def stop(self) -> None:
        """No stage is running from here on."""


class Stopwatch(Meter):
    """Wall-clock seconds of every stage; waits for the GPU at every border.

    Attributes:
        seconds: spent so far.
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

    @property
    def select_to_encode(self) -> float:
        """Seconds of the stages in which gazed and dense encoding differ."""
        return sum(self.seconds[stage] for stage in (Stage.SELECT, Stage.EMBED, Stage.ENCODE))

    @property
    def all_stages(self) -> float:
        return sum(self.seconds.values())


class PeakMeter(Meter):
    """Peak memory of every stage, above what was in use when this was made.

    So the weights do not count, and what a stage gets from the one before it does.

    Attributes:
        peaks: bytes; 0 for stages that did not come, None where it cannot be measured.
    """

    def __init__(self, gauge: "MemoryGauge") -> None:
        self.peaks: dict[Stage, int | None] = dict.fromkeys(Stage, 0)
        self._gauge = gauge
        self._base = gauge.restart()
        self._running: Stage | None = None

    def enter(self, stage: Stage) -> None:
        self.stop()
        self._gauge.restart()
        self._running = stage

    def stop(self) -> None:
        if self._running is not None:
            peak, before = self._gauge.peak(), self.peaks[self._running]
            if peak is None or before is None or self._base is None:
                self.peaks[self._running] = None
            else:
                self.peaks[self._running] = max(before, peak - self._base)
        self._running = None


class MemoryGauge:
    """Memory in use, and its peak since a restart; this one cannot measure."""

    method = "cannot be measured here"

    def restart(self) -> int | None:
        """Free what is unused and begin a new peak; the bytes in use now."""
        return None

    def peak(self) -> int | None:
        """The most bytes in use since `restart`."""
        return None


class ProcessGauge(MemoryGauge):
    """Resident memory of this process.

    The kernel keeps the peak itself (VmHWM), so nothing is missed between two looks. Free
    pages that the allocator keeps are returned first: they would hide a new peak.
    """

    method = "peak resident memory of the process (VmHWM, reset before each stage)"

    def restart(self) -> int:
        trim_memory()
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is resident now
        return self._status("VmRSS")

    def peak(self) -> int:
        return self._status("VmHWM")

    @staticmethod
    def _status(key: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return 1024 * int(line.split()[1])
        raise OSError(f"no {key} in /proc/self/status")


class CudaGauge(MemoryGauge):
    """Memory that torch has allocated on one GPU."""

    method = "torch.cuda.max_memory_allocated, reset before each stage"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def restart(self) -> int:
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)


def memory_gauge(device: torch.device) -> MemoryGauge:
    """The gauge of a device."""
    if device.type == "cuda":
        return CudaGauge(device)
    gauge = ProcessGauge()
    try:
        gauge.restart()
        gauge.peak()
    except OSError:  # no Linux, or a sandbox without these files
        return MemoryGauge()
    return gauge
