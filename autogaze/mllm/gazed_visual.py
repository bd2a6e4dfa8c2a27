"""One video or image of a prompt: its frames sampled, its units chosen, and the kept ones cut."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from autogaze.checks import describe_value, is_finite
from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.mllm.adapter import VisualInput
from autogaze.mllm.checks import as_count, as_whole_numbers
from autogaze.mllm.gaze_settings import GazeSettings
from autogaze.mllm.processor_adapter import (
    Expansion,
    FrameTimes,
    ProcessorAdapter,
)
from autogaze.mllm.processor_output import PrepareTimes, StageClock, VisualReport
from autogaze.mllm.prompt import Kind
from autogaze.mllm.ranking import gazed_grid, scales_grid
from autogaze.mllm.same_video import check_file, check_sampling, check_size, check_times
from autogaze.mllm.sampled_video import ASSUMED_RATE, FrameSource, SampledVideo
from autogaze.mllm.units import KeptUnits, UnitGrid, UnitRule

FRAMES_IN_MEMORY = 16
"""Frames that are in memory at a time, about: chunks are whole tubelets."""


Made = Gaze | KeptUnits | UnitRule | None
"""What was chosen of a video before, if anything was."""


@dataclass(frozen=True, eq=False)
class PreparedVisual:
    """A video or image that is ready for its prompt.

    Args:
        input: the kept units.
        expansion: what stands in the prompt.
        gaze: that was selected, if any was.
        report: what became of it.
        seconds: by stage.
    """

    input: VisualInput
    expansion: Expansion
    gaze: Gaze | None
    report: VisualReport
    seconds: PrepareTimes


class GazedVisual:
    """A video, or an image that its family does not cut into crops, on its way into a prompt.

    Args:
        kind: what it is.
        frames: a file, or decoded frames.
        made: what was chosen before: a gaze, kept units, a rule, or None to select.
        adapter: of the family.
        settings, options: of the call.
        pyramid: of the selector, if there is one.
        metadata: when decoded frames are shown: `fps`, `frames_indices`, `total_num_frames` and
            `duration` of the video that they were taken from, as transformers names them.
        device: where frames are decoded.

    Attributes:
        numbers: of the sampled frames.
        size: height and width of the model's frames.
        grid: its units.
        kept: those that are kept; set by whoever chooses, all by default.
        gaze: that they were chosen by, if any.
        clock: adds up the seconds of each stage.

    Raises:
        VideoError: a file that is missing or no video.
        MLLMError: a gaze of another video, or at other frames than the call asks for.
    """

    def __init__(
        self,
        kind: Kind,
        frames: Any,
        made: Made,
        adapter: ProcessorAdapter,
        settings: GazeSettings,
        options: Mapping[str, Any],
        *,
        pyramid: PatchPyramid | None,
        metadata: Any = None,
        device: torch.device | None = None,
    ) -> None:
        self.kind, self.adapter, self.made = kind, adapter, made
        self._metadata = _fields(metadata)
        self.source = source = FrameSource(
            frames,
            rate=self._metadata.get("fps"),
            skip_corrupt=settings.skip_corrupt,
            decoder=settings.decoder if kind == "video" else "auto",
            device=device,
        )
        sampled = options.get("do_sample_frames")
        asked = any(options.get(n) is not None for n in ("num_frames", "fps", "max_frames"))
        if source.path is None and not asked:
            sampled = False  # whoever decoded them has sampled them
        self._sampling = settings.sampling(sampled)
        gaze = made if isinstance(made, Gaze) else None
        numbers: Sequence[int]
        if gaze is not None and gaze.source is not None:
            check_size(gaze, source)
            numbers = gaze.source.frame_indices
            check_sampling(options, numbers, source, adapter)
        elif kind == "image":
            numbers = [0]
        else:
            numbers = adapter.numbers(source.num_frames, source.rate, self._sampling)
        self.numbers = tuple(numbers)
        self.form = adapter.form(kind)
        native = settings.native and kind == "video"
        self.size = adapter.frame_size(kind, source.height, source.width, len(numbers), native)
        if gaze is not None and settings.units != "union" and adapter.any_size:
            rows, columns = gazed_grid(gaze)
            self.size = rows * self.form.unit, columns * self.form.unit
        tubelets = -(-len(numbers) // self.form.tubelet)
        self.grid: UnitGrid = adapter.grid(kind, tubelets, *self.size)
        scales = pyramid if gaze is None else gaze.pyramid
        if settings.units == "scales" and kind == "video" and scales is not None:
            tile, (rows, columns) = scales.grids[-1], self.grid.dense
            if adapter.any_size:  # frames become whole tiles
                rows, columns = (max(1, round(units / tile)) * tile for units in (rows, columns))
                self.size = rows * self.form.unit, columns * self.form.unit
            elif rows % tile or columns % tile:
                raise MLLMError(
                    f"units='scales' takes frames of whole tiles, {tile} x {tile} units each; this "
                    f"model's have {rows} x {columns} units, whatever the video's size: use "
                    "units='finest'"
                )
            self.grid = scales_grid(tubelets, rows, columns, scales)
        self.kept: KeptUnits | None = None
        self.gaze: Gaze | None = None
        self.clock = StageClock()
        self._video: SampledVideo | None = None

    def sampled(self, *, motion: bool = False, passes: int = 1, waiting: int = 1) -> SampledVideo:
        """The sampled frames; arguments as of `SampledVideo`, which is made by the first call."""
        if self._video is None:
            chunk = max(1, FRAMES_IN_MEMORY // self.form.tubelet) * self.form.tubelet
            self._video = SampledVideo(
                self.source,
                self.numbers,
                *self.size,
                chunk=chunk,
                motion=motion,
                passes=passes,
                waiting=waiting,
                resize=partial(self.adapter.resize, self.kind),
                clock=self.clock,
            )
        return self._video

    def expected_expansion(self) -> Expansion:
        """What will stand in the prompt with everything kept, by nominal times; reads no frame."""
        rate = self.source.rate or ASSUMED_RATE
        total = self.source.num_frames
        seconds = tuple(number / rate for number in self.numbers)
        times = FrameTimes(seconds, rate, total, self._sampling.fps, total / rate)
        return self.adapter.expand(self.kind, KeptUnits.everything(self.grid), times)

    def prepared(self) -> PreparedVisual:
        """Cut what is kept."""
        video = self.sampled()
        kept = self.kept or KeptUnits.everything(self.grid)
        with self.clock.stage("cut"):
            rows = self._cut(video, kept)
        times = self._times(video)
        if isinstance(self.made, Gaze):
            check_times(self.made, times.seconds, self.source)
            check_file(self.made, self.source)
        interval = self.adapter.interval(self.kind, times)
        return PreparedVisual(
            VisualInput(self.kind, kept, rows, interval),
            self.adapter.expand(self.kind, kept, times),
            self._located(video),
            VisualReport(
                self.kind,
                width=self.size[1],
                height=self.size[0],
                num_frames=len(self.numbers),
                dense_units=kept.dense_units,
                kept_units=kept.num_units,
            ),
            self.clock.times,
        )

    def _cut(self, video: SampledVideo, kept: KeptUnits) -> torch.Tensor:
        """Rows of the kept units, chunk by chunk."""
        parts = self._parts(video, kept)
        cut = (self.adapter.cut(self.kind, frames, part) for part, frames in parts if part)
        each = self.adapter.rows_per_unit(self.kind)
        if each is None:
            return torch.cat(list(cut))
        rows: torch.Tensor | None = None  # written in place: what is kept is in memory once
        filled = 0
        for some in cut:
            if rows is None:
                rows = some.new_empty(each * kept.num_units, *some.shape[1:])
            rows[filled : filled + len(some)] = some
            filled += len(some)
        if rows is None or filled != len(rows):
            raise MLLMError(f"{filled} rows of pixels were cut of {kept}, {each} per unit expected")
        return rows

    def _parts(
        self, video: SampledVideo, kept: KeptUnits
    ) -> Iterator[tuple[KeptUnits | None, torch.Tensor]]:
        """Kept units of every chunk (None for none) and its frames."""
        first = 0
        for chunk in video:
            end = first + -(-len(chunk.frames) // self.form.tubelet)
            some = kept.offsets[end] > kept.offsets[first]
            yield (kept.between(first, end) if some else None), chunk.frames
            first = end

    def _times(self, video: SampledVideo) -> FrameTimes:
        seconds, rate, total = video.seconds, self.source.rate, self.source.num_frames
        known = self._metadata
        if known.get("fps"):
            rate = float(known["fps"])
        if self.source.path is None and self.kind == "video":
            indices = known.get("frames_indices")
            if indices is not None and len(indices) <= max(self.numbers):
                raise MLLMError(
                    f"frames_indices in video_metadata has {len(indices)} numbers, the video "
                    f"{self.source.num_frames} frames"
                )
            indices = self.numbers if indices is None else [indices[n] for n in self.numbers]
            if rate is None and len(indices) > 1:
                warnings.warn(
                    f"decoded frames of unknown rate: {ASSUMED_RATE:g} per second are assumed; "
                    "give video_metadata=[{'fps': ...}], or the file",
                    stacklevel=2,
                )
            seconds = tuple(float(index) / (rate or ASSUMED_RATE) for index in indices)
            total = int(known.get("total_num_frames") or total)
            duration = known.get("duration")
        else:
            duration = total / rate if rate else None
        return FrameTimes(seconds, rate, total, self._sampling.fps, duration)

    def _located(self, video: SampledVideo) -> Gaze | None:
        """The gaze, with the frames of the video that it was made at."""
        gaze = self.gaze
        if gaze is None or gaze.source is None:
            return gaze
        width, height = self.source.size
        path = self.source.path
        return replace(
            gaze,
            source=replace(
                gaze.source,
                tiles=replace(gaze.source.tiles, width=width, height=height),
                path=None if path is None else str(path),
                timestamps=video.seconds,
                frame_indices=self.numbers,
            ),
        )


class GazedImage:
    """An image that its family cuts into crops on its way into a prompt; all of it is kept.

    Args:
        source: its pixels.
        adapter: of the family.
        together: images in the list that it was given in; 1 without lists per prompt.

    Attributes:
        kind, grid, kept: as those of a `GazedVisual`.
    """

    kind: Kind = "image"

    def __init__(self, source: FrameSource, adapter: ProcessorAdapter, together: int) -> None:
        self.source, self._clock = source, StageClock()
        with self._clock.stage("decode"):
            _, pixels, _ = next(source.read([0]))
        with self._clock.stage("cut"):
            self._image = adapter.image(pixels, together)
        self.grid = self._image.grid
        self.kept: KeptUnits | None = None

    def prepared(self) -> PreparedVisual:
        """The whole of it."""
        image, (width, height) = self._image, self.source.size
        kept = KeptUnits.everything(self.grid)
        return PreparedVisual(
            VisualInput(self.kind, kept, image.pixels, size=(height, width)),
            image.expansion,
            None,
            VisualReport(
                self.kind,
                width=image.side,
                height=image.side,
                num_frames=image.num_crops,
                dense_units=kept.dense_units,
                kept_units=kept.num_units,
            ),
            self._clock.times,
        )


def _fields(metadata: Any) -> dict[str, Any]:
    """Metadata of a video, given as a dict or as transformers' `VideoMetadata`."""
    names = ("fps", "frames_indices", "total_num_frames", "duration")
    if metadata is None:
        return {}
    if isinstance(metadata, dict):
        found = {name: metadata.get(name) for name in names}
    else:
        found = {name: getattr(metadata, name, None) for name in names}
        if all(value is None for value in found.values()):
            raise MLLMError(
                f"video_metadata must be a dict with some of {', '.join(names)}, or transformers' "
                f"VideoMetadata, got {describe_value(metadata)}"
            )
    for name in ("fps", "duration"):
        value = found[name]
        if value is not None and not (is_finite(value) and value >= 0):
            raise MLLMError(
                f"{name} in video_metadata must be a number of at least 0, got {describe_value(value)}"
            )
    if found["frames_indices"] is not None:
        found["frames_indices"] = as_whole_numbers(
            found["frames_indices"], "frames_indices in video_metadata"
        )
    if found["total_num_frames"] is not None:
        found["total_num_frames"] = as_count(
            found["total_num_frames"], "total_num_frames in video_metadata"
        )
    return found
