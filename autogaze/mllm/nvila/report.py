"""What prompts with gazed videos cost: tokens, and seconds of their preparation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from time import perf_counter
from typing import Any

from transformers import BatchFeature

from autogaze.gaze import Gaze
from autogaze.mllm.nvila.gazed_video import GazedVideo
from autogaze.mllm.processor_output import GazedReport, PrepareTimes, VisualReport


class StageClock:
    """Adds up the seconds of each stage of `PrepareTimes`."""

    def __init__(self) -> None:
        self._seconds = {field.name: 0.0 for field in fields(PrepareTimes)}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        began = perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += perf_counter() - began

    @property
    def times(self) -> PrepareTimes:
        return PrepareTimes(**self._seconds)


class NVILAInputs(BatchFeature):
    """Arguments of the model's `forward` and `generate`: `model.generate(**inputs)`.

    Attributes:
        report: what the prompts cost; a unit is a token of the LLM.
        gazes: of every video, at its tiles.
    """

    report: GazedReport
    gazes: tuple[Gaze, ...]

    def __init__(
        self,
        data: dict[str, Any],
        report: GazedReport,
        gazes: tuple[Gaze, ...],
    ) -> None:
        super().__init__(data)
        self.report, self.gazes = report, gazes


def describe(
    videos: Sequence[GazedVideo],
    videos_each: Sequence[int],
    tokens: Sequence[int],
    shuffle: int,
    seconds: PrepareTimes,
) -> GazedReport:
    """The report of a batch of prompts.

    Args:
        videos: in reading order.
        videos_each: number of videos of every prompt.
        tokens: of every prompt.
        shuffle: patches of a frame in a token.
        seconds: of the preparation.
    """
    visuals = []
    for video in videos:
        gaze, grid = video.gaze, video.grid
        side = gaze.pyramid.side
        size = (side, side) if grid is None else (grid.content_width, grid.content_height)
        visuals.append(
            VisualReport(
                "video",
                *size,
                gaze.num_frames,
                video.dense_tokens(shuffle),
                video.num_tokens(shuffle),
            )
        )
    left = iter(visuals)
    dense = []
    for length, count in zip(tokens, videos_each, strict=True):
        own = [next(left) for _ in range(count)]
        dense.append(length + sum(visual.dense_units - visual.kept_units for visual in own))
    return GazedReport(tuple(visuals), tuple(tokens), tuple(dense), seconds)
