"""What `autogaze bench encode` found out."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from autogaze.benchmarks.measure import Timing
from autogaze.benchmarks.stages import ByStage


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    least: float
    largest: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Cost:
    """What one way of seeing a piece of video costs.

    Attributes:
        selector: who chose; "dense" saw everything.
        ratio: the cap asked for, as a share of all patches of all scales; None for dense,
            and where trained weights stopped by themselves.
        tokens: patches encoded, class tokens aside.
        seconds: of every stage.
        seeing: seconds of selecting, embedding and encoding together.
        whole: seconds of all stages.
        factor: how many times faster than dense this is, selecting included, decoding and
            preprocessing left out (they are the same).
        whole_factor: the same with decoding and preprocessing.
        encoding: embedding and encoding as a share of dense encoding's time.
        flops: counted, of every stage (0 for those that are not counted).
        peak: bytes held at the most during every stage above the program and its weights;
            None where it cannot be measured.
    """

    selector: str
    ratio: float | None
    tokens: int
    seconds: ByStage[Timing]
    seeing: Timing
    whole: Timing
    factor: Spread
    whole_factor: float
    encoding: float
    flops: ByStage[int]
    peak: ByStage[int | None]

    @property
    def verdict(self) -> str:
        """Whether this beats dense encoding: in every round, in none, or in some."""
        if self.factor.least > 1:
            return "faster"
        return "slower" if self.factor.largest < 1 else "undecided"

    @property
    def total_flops(self) -> int:
        return sum(self.flops)


@dataclass(frozen=True)
class CellReport:
    """One frame rate and resolution.

    Attributes:
        fps: frames a second asked for; `fps_seen` what the video has of it.
        frames: frames seen, fewer than asked for where the video is too short.
        resolution: pixels a side asked for; `pixels` what the tiles make of it.
        tiles: squares of the encoder's side that a frame is cut into.
    """

    fps: float
    fps_seen: float
    frames: int
    resolution: int
    pixels: int
    tiles: int
    dense: Cost
    gazed: tuple[Cost, ...]

    def share(self, cost: Cost) -> float:
        """Tokens as a share of dense encoding's."""
        return cost.tokens / self.dense.tokens

    def over_share(self, cost: Cost) -> float:
        """How much longer encoding takes than that share of dense encoding's time."""
        return cost.encoding / self.share(cost)

    def to_json(self) -> dict[str, Any]:
        rows = [
            {
                **asdict(cost),
                "share": self.share(cost),
                "over_share": self.over_share(cost),
                "verdict": cost.verdict if cost is not self.dense else None,
            }
            for cost in (self.dense, *self.gazed)
        ]
        return {**asdict(self), "dense": rows[0], "gazed": rows[1:]}


@dataclass(frozen=True)
class EncoderReport:
    """All cells of one encoder.

    Attributes:
        random_weights: times are those of real weights, features are not.
        scales: at which it is gazed.
        dense_batch: frames that dense encoding got at once.
        dense_batch_searched: whether that was the fastest of a few, or the user's wish.
    """

    name: str
    random_weights: bool
    scales: str
    dense_batch: int
    dense_batch_searched: bool
    cells: tuple[CellReport, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cells": [cell.to_json() for cell in self.cells]}


@dataclass(frozen=True)
class EncodeReport:
    """All that one run measured, and how.

    Attributes:
        place: device and precision of the models.
        video_size: width and height in pixels.
        budget: where the selectors' ratios come from.
        memory: how peaks were measured.
        repeats: rounds.
    """

    hardware: str
    place: str
    video: str
    video_size: tuple[int, int]
    video_fps: float | None
    budget: str
    memory: str
    attn_type: str
    repeats: int
    encoders: tuple[EncoderReport, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know besides the figures."""
        notes = [f"Shares of patches: {self.budget}."]
        cells = [cell for encoder in self.encoders for cell in encoder.cells]
        if any(cell.fps > cell.fps_seen for cell in cells):
            notes.append(
                f"The video has {self.video_fps:g} frames a second: higher rates see those, "
                "with the share of patches of the rate asked for."
            )
        if len({cell.frames for cell in cells}) > 1:
            notes.append("The video is too short for all frames asked for at the lower rates.")
        if any(cell.pixels != cell.resolution for cell in cells):
            notes.append("Tiles make the next larger whole number of encoder sides.")
        if any(encoder.random_weights for encoder in self.encoders):
            notes.append("Encoders have random weights; what they cost does not depend on them.")
        return tuple(notes)

    def to_json(self) -> dict[str, Any]:
        encoders = [encoder.to_json() for encoder in self.encoders]
        return {**asdict(self), "notes": list(self.notes), "encoders": encoders}
