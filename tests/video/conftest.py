"""Tiny videos of every kind, made on the fly."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

WIDTH, HEIGHT, NUM_FRAMES = 64, 48, 20

Encode = Callable[..., Path]


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A ramp with a bright square that moves 3 pixels per frame; its grey level counts frames."""
    x = np.linspace(0, 120, width)[None, :, None]
    y = np.linspace(0, 80, height)[:, None, None]
    frame = np.broadcast_to(x + y, (height, width, 3)).astype(np.uint8).copy()
    left = 3 * number % (width // 2)
    frame[height // 4 : height // 2, left : left + width // 4] = 60 + 8 * number % 190
    return frame


def encode(
    path: Path,
    frames: Sequence[np.ndarray] | None = None,
    *,
    codec: str = "libx264",
    fps: int = 10,
    pixel_format: str = "yuv420p",
    milliseconds: Sequence[int] | None = None,
    rotation: int = 0,
    container_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Encode RGB (or RGBA) frames; with `milliseconds` at a variable rate."""
    frames = [picture(number) for number in range(NUM_FRAMES)] if frames is None else frames
    clock = Fraction(1, 1000)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        if rotation:
            stream.set_display_rotation(rotation)
        if milliseconds is not None:
            stream.codec_context.time_base = clock
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(
                pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24"
            )
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[number], clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="session", name="encode")
def encode_fixture() -> Encode:
    return encode


@pytest.fixture(scope="session", name="picture")
def picture_fixture() -> Callable[..., np.ndarray]:
    return picture


@pytest.fixture(scope="session")
def plain(folder: Path) -> Path:
    """20 frames of 64 x 48 pixels at 10 per second, a key frame every 6, index at the front."""
    return encode(folder / "plain.mp4", g="6", container_options={"movflags": "faststart"})


@pytest.fixture(scope="session")
def irregular(folder: Path) -> Path:
    """The same frames at a variable rate."""
    times = np.random.default_rng(0).integers(20, 200, NUM_FRAMES).cumsum()
    times = [int(time - times[0]) for time in times]
    return encode(folder / "irregular.mkv", g="6", milliseconds=times)
