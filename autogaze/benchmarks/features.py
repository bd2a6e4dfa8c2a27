"""Features of frames, dense and gazed: what is compared to tell how faithful a gaze is."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.benchmarks.choosers import Chooser
from autogaze.benchmarks.encoder_models import MeasuredEncoder
from autogaze.errors import VideoError
from autogaze.pipeline import CHUNK
from autogaze.selectors.base import Clips
from autogaze.video.chunks import read_chunks
from autogaze.vision_encoders.output import GazedOutput

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
    features = []
    for some in frames.split(DENSE_BATCH):
        output = encoder.forward_dense(some)
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            pooled = output.last_hidden_state[:, encoder.adapter.num_prefix :].mean(1)
        features.append(pooled.float().cpu())
    return torch.cat(features)


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
    return GazedFeatures(_pooled(output)[0].float().cpu(), gaze.num_patches)


def _pooled(output: GazedOutput) -> Float[Tensor, "B T C"]:
    """The model's own pooling; without one the mean of a frame's features."""
    if output.pooler_output is not None:
        return output.pooler_output
    gaze, features = output.gaze, output.last_hidden_state
    assert gaze is not None
    assert features is not None
    index = gaze.frame_of_patch.to(features.device)
    sums = features.new_zeros(gaze.lengths.numel(), features.shape[-1])
    sums.index_add_(0, index, features)
    counts = gaze.lengths.flatten().clamp(min=1).to(features.device)
    return (sums / counts[:, None]).unflatten(0, tuple(gaze.lengths.shape))
