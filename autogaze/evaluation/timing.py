"""Time and memory of repeated runs, and of the stages in which a video is encoded."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from autogaze.utils.device import trim_memory
from autogaze.utils.progress import silent


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
    """Name and size of the device, and the version of torch."""
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


Enter = Callable[[Stage | None], None]
"""Called when a stage begins, which ends the one before; with None when none follows."""


class StageTimer:
    """Wall-clock seconds of every stage, summed over visits; waits for the GPU at every border."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(Stage, 0.0)
        self._stage: Stage | None = None
        self._began = 0.0

    def enter(self, stage: Stage | None) -> None:
        _synchronize()
        now = time.perf_counter()
        if self._stage is not None:
            self.seconds[self._stage] += now - self._began
        self._stage, self._began = stage, now


class MemoryGauge(NamedTuple):
    """Memory in use, and its peak; by default one that cannot measure.

    Attributes:
        method: of measuring, in words.
        restart: begins a new peak, and returns the bytes in use now.
        peak: the most bytes in use since `restart`.
    """

    method: str = "cannot be measured here"
    restart: Callable[[], int | None] = silent
    peak: Callable[[], int | None] = silent


def memory_gauge(device: torch.device) -> MemoryGauge:
    """Memory that torch has allocated on a GPU, or resident memory of this process."""
    if device.type == "cuda":

        def restart_cuda() -> int:
            torch.cuda.reset_peak_memory_stats(device)
            return torch.cuda.memory_allocated(device)

        peak = partial(torch.cuda.max_memory_allocated, device)
        method = "torch.cuda.max_memory_allocated, reset before each stage"
        return MemoryGauge(method, restart_cuda, peak)

    def restart() -> int:
        trim_memory()  # free pages that the allocator keeps would hide a new peak
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to what is resident now
        return _process_status("VmRSS")

    method = "peak resident memory of the process (VmHWM, reset before each stage)"
    gauge = MemoryGauge(method, restart, partial(_process_status, "VmHWM"))
    try:
        gauge.restart()
        gauge.peak()
    except OSError:  # no Linux, or a sandbox without these files
        return MemoryGauge()
    return gauge


def _process_status(key: str) -> int:
    """Bytes; the kernel itself keeps VmHWM, so that no peak is missed between two looks."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {key} in /proc/self/status")


class PeakMeter:
    """Peak memory of every stage, above what was in use when this was made.

    So the weights do not count, and what a stage gets from the one before it does.

    Attributes:
        peaks: bytes; 0 for stages that were not entered, None where it cannot be measured.
    """

    def __init__(self, gauge: MemoryGauge) -> None:
        self.peaks: dict[Stage, int | None] = dict.fromkeys(Stage, 0)
        self._gauge = gauge
        self._base = gauge.restart()
        self._stage: Stage | None = None

    def enter(self, stage: Stage | None) -> None:
        if self._stage is not None:
            peak, before = self._gauge.peak(), self.peaks[self._stage]
            if peak is None or before is None or self._base is None:
                self.peaks[self._stage] = None
            else:
                self.peaks[self._stage] = max(before, peak - self._base)
        if stage is not None:
            self._gauge.restart()
        self._stage = stage
