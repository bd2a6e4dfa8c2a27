"""A tiny VideoMAE, gazes and videos."""

from dataclasses import replace

import torch

from autogaze.gaze import Gaze
from autogaze.reconstruction.video_mae import (
    VideoMAE,
)
from tests.tasks.material import TINY

SMALL = replace(TINY, scales="32+64", max_num_frames=8, image_size=64, patch_size=16)


def tiny_video_mae():
    """Embeddings large enough that mistakes show."""
    torch.manual_seed(0)
    model = VideoMAE(SMALL).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def some_gaze(clips=2, frames=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    V = SMALL.pyramid.num_patches
    lengths = torch.randint(1, V, (clips, frames), generator=generator)
    ids = [torch.randperm(V, generator=generator)[:n] for n in lengths.flatten().tolist()]
    return Gaze(SMALL.pyramid, torch.cat(ids), lengths)


def some_video(clips=2, frames=4, seed=0):
    return torch.randn(clips, frames, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
