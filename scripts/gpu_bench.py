"""What rows of `gpu_check.py` are, and what measures them: clips, a clock and the time that is left."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FRAMES, REPEATS, LONG = 16, 5, 20.0
"""Of a clip; of a measurement, and the seconds after which none is begun any more."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        work: what was timed, and with how many clips at once.
        ms: milliseconds per clip, the median of up to `REPEATS` calls after a warm-up; None where
            it was left out.
        before: the same with version 0.1.0 on an H100, where it was measured.
        target: the most that it should take on an H100, in ms per clip.
        note: what else there is to know, by what it was computed, or why it was left out.
        failed: whether it should have been measured and was not.
        published: the same with the published code on an H100, where it was measured.
    """

    work: str
    ms: float | None
    before: str = ""
    target: float | None = None
    note: str = ""
    failed: bool = False
    published: str = ""

    @property
    def met(self) -> str:
        """Whether the target is met, in a word."""
        if self.ms is None or self.target is None:
            return ""
        return "yes" if self.ms <= self.target else "no"


class LeftOutError(Exception):
    """A row that is not measured here, and why."""


class Bench:
    """Clips, models and the clock of one run."""

    def __init__(self, device: torch.device, tiny: bool, seconds: float) -> None:
        self.device, self.tiny = device, tiny
        self.ends = time.monotonic() + seconds
        self.on_gpu = device.type == "cuda"
        self.dense: dict[tuple[str, int], Any] = {}  # see `dense`
        self.half = torch.float16 if self.on_gpu else torch.bfloat16

    def clips(self, number: int, side: int = 224) -> Tensor:
        """(B, T, 3, S, S) in [0, 1]: noise that drifts by a pixel per frame."""
        frames = 2 if self.tiny else FRAMES
        noise = torch.rand(number, 3, 28, 28, generator=torch.Generator().manual_seed(0))
        noise = noise.to(self.device)
        wide = F.interpolate(noise, size=(side + frames,) * 2, mode="bilinear")
        moved = [wide[:, :, t : t + side, t : t + side] for t in range(frames)]
        return torch.stack(moved, 1)

    def number(self, clips: int, most_on_cpu: int = 1) -> int:
        """Clips at once: as many as asked for, fewer in a tiny run.

        Raises:
            LeftOutError: more than a CPU computes in seconds, or the time is over.
        """
        if time.monotonic() > self.ends:
            raise LeftOutError("the time was over")
        if self.tiny:
            return min(clips, 2)
        if not self.on_gpu and clips > most_on_cpu:
            raise LeftOutError("takes minutes on a CPU")
        return clips

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Median time of a call, after one that is not counted."""
        started = time.monotonic()
        call()
        times: list[float] = []
        while not times or (len(times) < REPEATS and time.monotonic() < started + LONG):
            self.wait()
            began = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - began)
            if self.tiny:
                break
        return sorted(times)[len(times) // 2] * 1000

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def failed_row(name: str, why: str) -> Row:
    """The row of a work that should have been measured."""
    return Row(
        name, None, note="failed: " + " ".join(why.split()).replace("|", "/")[:400], failed=True
    )
