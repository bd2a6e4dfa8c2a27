"""Tiny clips, selectors and checkpoints for `bench quality`."""

from functools import partial
from pathlib import Path

import torch

from autogaze import PatchPyramid
from autogaze.evaluation.quality.clips import QualityClip
from autogaze.evaluation.selectors import MeasuredSelector
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig, save_video_mae
from autogaze.selectors import registry
from autogaze.selectors.learned import Learned
from tests.models.autogaze.tiny import tiny_model

PYRAMID = PatchPyramid((32, 64), 16)
"""Of the tiny model: 4 + 16 patches."""


def noise(seed: int, num_frames: int, side: int) -> torch.Tensor:
    """(T, 3, S, S): a still picture in which a square of noise moves."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randint(256, (3, 4, 4), generator=generator, dtype=torch.uint8)
    clip = still.repeat_interleave(side // 4, 1).repeat_interleave(side // 4, 2)
    frames = clip.repeat(num_frames, 1, 1, 1)
    for frame in frames:
        top, left = torch.randint(side - 16, (2,), generator=generator).tolist()
        square = torch.randint(256, (3, 16, 16), generator=generator, dtype=torch.uint8)
        frame[:, top : top + 16, left : left + 16] = square
    return frames


def some_clips(sources: dict[str, list[str]], num_frames: int = 3) -> list[QualityClip]:
    """Clips from kind -> the source of each."""
    clips = []
    for kind, names in sources.items():
        for number, source in enumerate(names):
            read = partial(noise, len(clips), num_frames, PYRAMID.side)
            clips.append(QualityClip(kind, source, f"{kind}-{source}-{number}", read))
    return clips


def compared(name: str) -> MeasuredSelector:
    return MeasuredSelector(name, registry.load(name, pyramid=PYRAMID))


def tiny_learned(name: str = "tiny", **changes) -> MeasuredSelector:
    return MeasuredSelector(name, Learned(tiny_model(**changes)))


def save_weights(folder: Path) -> str:
    tiny_model().save_pretrained(folder)
    return str(folder)


def save_video_mae_checkpoint(folder: Path, scales: str = "32+64") -> str:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        scales=scales, max_num_frames=16, image_size=64, hidden_size=24, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, decoder_hidden_size=16,
        decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=32,
    )  # fmt: skip
    save_video_mae(VideoMAE(config), folder, loss_type="l1", loss_weights="1")
    return str(folder)
