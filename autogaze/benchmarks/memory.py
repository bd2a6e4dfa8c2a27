"""Peak memory: of the process on Linux as its kernel keeps it, of a GPU as torch does."""

from pathlib import Path

import torch

from autogaze.memory import give_back

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
