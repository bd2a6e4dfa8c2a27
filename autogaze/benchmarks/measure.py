"""Timing on the machine at hand: warm-up, medians, and what its arithmetic can do."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


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
