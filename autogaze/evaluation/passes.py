"""One pass over a piece of video, gazed or dense, metered stage by stage."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from autogaze.clips import Clips
from autogaze.evaluation.encoders import MeasuredEncoder
from autogaze.evaluation.selectors import MeasuredSelector
from autogaze.evaluation.timing import Enter, Stage
from autogaze.gaze import Gaze
from autogaze.pipeline import CHUNK, tiles_at_once
from autogaze.source import TileGrid
from autogaze.utils.device import BatchSize
from autogaze.video.motion import check_motion, motion_map
from autogaze.video.reader import Video
from autogaze.video.tiling import cut_tiles
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.encode import encode
from autogaze.vision_encoders.layout import TokenLayout
from autogaze.vision_encoders.registry import adapter_class

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class VideoSample:
    """The first frames of a video at a rate, on square tiles; decoded anew for every pass.

    Attributes:
        fps: frames per second asked for.
        frames: frames asked for; a shorter video gives what it has.
        tiles: how a frame is laid out: n x n tiles, whatever its shape.
    """

    video: Video
    fps: float
    frames: int
    tiles: TileGrid

    @classmethod
    def of(cls, video: Video, fps: float, frames: int, resolution: int, side: int) -> "VideoSample":
        """Frames of at least `resolution` pixels a side, on tiles of `side`."""
        n = -(-resolution // side)
        size = video.info.width, video.info.height
        return cls(video, fps, frames, TileGrid(*size, n, n, side, n * side, n * side))

    @property
    def fps_found(self) -> float:
        """Frames per second that there are: never more than the video has."""
        return min(self.fps, self.video.info.rate)

    def each(
        self,
        work: Callable[[Clips], Result],
        enter: Enter,
        device: torch.device,
        tiles: BatchSize,
        *,
        motion_grid: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Result]:
        """Decode, then cut, and do some work on clips of at most 16 frames, as many tiles as
        `autogaze gaze` takes.

        Args:
            work: begins in the preprocessing stage.
            device: of the encoder, whose memory bounds the tiles.
            tiles: halves them where memory is too small all the same.
            motion_grid: cells per side of a tile for the decoder's motion, if needed.
            generator: what the work draws from.
        """
        motion = motion_grid is not None
        if motion:
            check_motion(self.video.info.codec, self.video.info.path)
        enter(Stage.DECODE)
        with closing(self.video.frames(fps=self.fps, motion=motion)) as decoded:  # type: ignore[type-var]
            frames = list(islice(decoded, self.frames))
        for start in range(0, len(frames), CHUNK):
            enter(Stage.PREPROCESS)
            chunk = frames[start : start + CHUNK]
            cut = cut_tiles([frame.pixels for frame in chunk], self.tiles)
            moved = [
                motion_map(frame.motion, self.tiles, motion_grid)
                for frame in chunk
                if frame.motion is not None and motion_grid is not None
            ]
            maps = torch.stack(moved, dim=1) if moved else None
            clips = Clips(cut, maps)

            def in_parts(size: int, clips: Clips = clips) -> list[Result]:
                found = []
                for part in clips.split(size):
                    enter(Stage.PREPROCESS)
                    found.append(work(part))
                return found

            at_once = min(tiles_at_once(device, clips), clips.num_clips)
            yield from tiles.run(at_once, in_parts, generator)


class Encoded(NamedTuple):
    """What one pass encoded.

    Attributes:
        lengths: patches of every frame of every clip.
        decoded: the same as the selector decoded them, perhaps in tiles; empty if dense.
    """

    lengths: list[list[int]]
    decoded: list[list[int]]

    @property
    def tokens(self) -> int:
        return sum(map(sum, self.lengths))


@torch.inference_mode()
def gazed_pass(
    sample: VideoSample,
    encoder: MeasuredEncoder,
    selector: MeasuredSelector,
    ratio: float | None,
    tiles: BatchSize,
    enter: Enter,
) -> Encoded:
    """Decode, cut, select and encode; every pass selects the same."""
    generator = torch.Generator().manual_seed(0)
    adapter = _metered(encoder, enter)
    device = encoder.device_options.device

    def encode_part(clips: Clips) -> tuple[Gaze, Gaze]:
        clips = clips.to(device)
        frames = encoder.normalised(clips.frames)
        enter(Stage.SELECT)
        selection = selector.select(clips, ratio, generator)
        enter(Stage.EMBED)
        encode(adapter, frames, selection.gaze, encoder.gazed.settings)
        enter(None)
        return selection.gaze, selection.decoded

    grid = selector.motion_grid
    found = sample.each(encode_part, enter, device, tiles, motion_grid=grid, generator=generator)
    gazes, decoded = zip(*found, strict=True)
    enter(None)
    return Encoded(_lengths(gazes), _lengths(decoded))


def _lengths(gazes: Iterable[Gaze]) -> list[list[int]]:
    return [clip for gaze in gazes for clip in gaze.lengths.tolist()]


def _metered(encoder: MeasuredEncoder, enter: Enter) -> EncoderAdapter:
    """The gazed model's adapter, which also says where the blocks begin and pooling ends."""
    model = encoder.gazed.model
    kind = adapter_class(model.config)

    class Metered(kind):  # type: ignore[misc,valid-type]
        def enter(self, tokens: Tensor) -> Tensor:
            enter(Stage.ENCODE)
            return super().enter(tokens)

        def pool(self, tokens: Tensor, layout: TokenLayout) -> Tensor | None:
            pooled = super().pool(tokens, layout)
            enter(Stage.EMBED)  # of the clips that come next, if there are any
            return pooled

    return Metered(model)


@torch.inference_mode()
def dense_pass(
    sample: VideoSample,
    encoder: MeasuredEncoder,
    batch: int,
    tiles: BatchSize,
    frames_at_once: BatchSize,
    enter: Enter,
) -> Encoded:
    """Decode, cut, and encode every frame whole by the untouched model, `batch` at once."""

    def encode_part(clips: Clips) -> int:
        frames = encoder.normalised(clips.frames).flatten(0, 1)

        def encode_frames(size: int) -> None:
            for some in frames.split(size):
                enter(Stage.EMBED)
                encoder.adapter.dense(some)

        frames_at_once.run(min(batch, len(frames)), encode_frames)
        enter(None)
        return len(frames)

    first = next(iter(encoder.adapter.layers))
    hook = first.register_forward_pre_hook(lambda *_: enter(Stage.ENCODE))
    try:
        count = sum(sample.each(encode_part, enter, encoder.device_options.device, tiles))
    finally:
        hook.remove()
    enter(None)
    return Encoded([[encoder.pyramid.cells[-1]]] * count, [])
