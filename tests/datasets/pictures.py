"""Photographs made of nothing."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image


def make_pictures(folder: Path, count: int = 3, width: int = 90, height: int = 70) -> Path:
    """Noise as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def some_frames(num_frames: int = 4, side: int = 32, seed: int = 0) -> torch.Tensor:
    """(T, 3, S, S) noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_frames, 3, side, side)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
