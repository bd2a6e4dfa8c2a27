"""The stages of encoding a video, and what watches them pass: a stopwatch or a memory gauge."""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import torch

from autogaze.benchmarks.memory import Gauge

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
