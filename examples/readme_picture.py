"""The README's picture: a scene made here, so that it may be shown anywhere.

    python examples/readme_picture.py docs/sheet.png

A public-domain portrait (Grace Hopper, US Navy, among matplotlib's samples) stands still
while a marbled ball crosses it; then the camera pans.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib import cbook
from PIL import Image

from autogaze.cli.app import app
from autogaze.video.writer import VideoWriter

WIDTH, HEIGHT, FRAMES = 448, 224, 64


def marble(side: int) -> np.ndarray:
    """(side, side, 3) stripes bent by waves, and (side, side) where the ball is."""
    y, x = np.mgrid[:side, :side] / side * 2 - 1
    stripes = np.sin(14 * (x + 0.25 * np.sin(5 * y)))[..., None]
    colours = 140 + 90 * stripes * np.array([1.0, 0.35, -0.6])
    light = np.clip(1.15 - 0.6 * np.hypot(x + 0.3, y + 0.3), 0.25, 1)[..., None]
    return np.clip(colours * light, 0, 255)


def scene() -> list[np.ndarray]:
    """64 frames: 40 with a camera that stands still, 24 with one that moves."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        portrait = np.asarray(Image.open(file).convert("RGB").resize((512, 600)))
    ball, side = marble(64), 64
    y, x = np.mgrid[:side, :side] / side * 2 - 1
    inside = np.hypot(x, y) < 1
    frames = []
    for t in range(FRAMES):
        pan = max(0, t - 40)
        frame = portrait[30 + 3 * pan : 30 + 3 * pan + HEIGHT, 20 + pan : 20 + pan + WIDTH].copy()
        left, top = 8 + 6 * t, 120 + int(40 * np.sin(t / 8))
        part = frame[top : top + side, left : left + side]
        hidden = inside[:, : part.shape[1]]
        part[hidden] = ball[:, : part.shape[1]][hidden]
        frames.append(frame)
    return frames


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.mp4"
        with VideoWriter(path, 25, WIDTH, HEIGHT) as writer:
            for frame in scene():
                writer.write(frame)
        app(["gaze", str(path), "--loss", "0.015", "--sheet", sys.argv[1]], standalone_mode=False)
    sheet = Image.open(sys.argv[1])
    half = sheet.width // 2, sheet.height // 2
    # All its colours, at half the size: a page that shows it is no wider.
    sheet.resize(half, Image.Resampling.BILINEAR).save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
