"""Features of frames, dense and gazed: what is compared to tell how faithful a gaze is."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.benchmarks.choosers import Chooser
from autogaze.benchmarks.encoder_models import MeasuredEncoder
from autogaze.errors import EncoderError, VideoError
from autogaze.pipeline import CHUNK
from autogaze.selectors.base import Clips
from autogaze.video.chunks import read_chunks
from autogaze.vision_encoders.layout import TokenLayout

DENSE_BATCH = 16


@dataclass(frozen=True, eq=False)
class VideoClip:
    """A few frames of one video.

    Attributes:
        video: its number among the videos.
        clips: (1, T, 3, S, S) at the side of the encoder.
    """

    video: int
    clips: Clips


def read_clips(
    paths: Sequence[str],
    side: int,
    *,
    per_video: int,
    fps: float | None = None,
    tiles: str = "one",
    motion_grid: int | None = None,
) -> list[VideoClip]:
    """The first clips of up to 16 frames of every video, a clip a tile.

    Args:
        side: pixels of a tile.
        per_video: clips of a video at the most.
        fps: frames a second; None for all.
        tiles: how frames are laid out, see `plan_tiles`.
        motion_grid: cells a side to map the decoder's motion on, if wanted.
    """
    found: list[VideoClip] = []
    for number, path in enumerate(paths):
        before = len(found)
        for chunk in read_chunks(
            path, side=side, tiles=tiles, chunk=CHUNK, fps=fps, motion_grid=motion_grid
        ):
            frames, motion = chunk.clips.frames, chunk.clips.motion
            for tile in range(len(frames)):
                one = slice(tile, tile + 1)
                clips = Clips(frames[one], None if motion is None else motion[one])
                found.append(VideoClip(number, clips))
            if len(found) - before >= per_video:
                break
        del found[before + per_video :]
    if len(found) < 2:
        raise VideoError(
            f"{len(found)} clips in {len(paths)} videos; at least 2 are needed to have neighbours"
        )
    return found


@torch.inference_mode()
def dense_features(encoder: MeasuredEncoder, clip: VideoClip) -> Float[Tensor, "T C"]:
    """One feature a frame by the untouched model: its own pooling, else its tokens' mean."""
    frames = encoder.normalised(clip.clips.frames)[0]
    pooled = [_pooled_dense(encoder, some) for some in frames.split(DENSE_BATCH)]
    return torch.cat(pooled).float().cpu()


def _pooled_dense(
    encoder: MeasuredEncoder, frames: Float[Tensor, "F 3 S S"]
) -> Float[Tensor, "F C"]:
    adapter = encoder.adapter
    output = adapter.dense(frames)
    pooled = getattr(output, "pooler_output", None)
    if pooled is not None:
        return pooled
    tokens = getattr(output, "last_hidden_state", None)
    if tokens is None:
        raise EncoderError(
            f"{encoder.name}: {type(adapter).__name__}.dense returned "
            f"{type(output).__name__}, which has neither pooler_output nor last_hidden_state; "
            "let it return an object that has (docs/encoders.md)"
        )
    # The adapter may pool what the model does not; gazed features are pooled by it too.
    patches = tokens.shape[1] - adapter.num_prefix
    frames_alone = ((patches,),) * len(frames)
    layout = TokenLayout(frames_alone, "frame_independent", tokens.device, adapter.num_prefix)
    pooled = adapter.pool(tokens.flatten(0, 1), layout)
    return tokens[:, adapter.num_prefix :].mean(1) if pooled is None else pooled


@dataclass(frozen=True)
class GazedFeatures:
    """One feature a frame, and the patches they were made of."""

    features: Float[Tensor, "T C"]
    tokens: int


@torch.inference_mode()
def gazed_features(
    encoder: MeasuredEncoder, clip: VideoClip, chooser: Chooser, ratio: float, seed: int
) -> GazedFeatures:
    """The same by the gazed model, for what a selector chooses of the clip."""
    generator = torch.Generator().manual_seed(seed)
    gaze = chooser.choose(clip.clips, ratio, generator).gaze
    output = encoder.gazed(encoder.normalised(clip.clips.frames), gaze)
    pooled = output.frame_means() if output.pooler_output is None else output.pooler_output
    return GazedFeatures(pooled[0].float().cpu(), gaze.num_patches)
