"""Any video: files of every kind through the whole main job."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autogaze import gaze_video
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.selectors.greedy import Greedy
from autogaze.video.chunks import ChunkReader
from tests.video.conftest import encode, picture

SMALL = Greedy(PatchPyramid((16, 32), 8))
VARIABLE = [0, 40, 300, 310, 900, 1000, 1500]


def pictures(count: int) -> list[np.ndarray]:
    return [picture(number) for number in range(count)]


def odd(path: Path) -> Path:
    frames = [frame[:47, :63] for frame in pictures(4)]
    return encode(path, frames, codec="ffv1", pixel_format="bgr0")


def transparent(path: Path) -> Path:
    alpha = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (48, 1, 1))
    frames = [np.concatenate([frame, alpha], axis=2) for frame in pictures(3)]
    return encode(path, frames, codec="libvpx-vp9", pixel_format="yuva420p")


def deep(path: Path, pixel_format: str) -> Path:
    return encode(path, pictures(3), codec="ffv1", pixel_format=pixel_format)


def animation(path: Path) -> Path:
    first, *others = [Image.fromarray(frame) for frame in pictures(4)]
    first.save(path, save_all=True, append_images=others, duration=100)
    return path


def still(path: Path, mode: str = "RGB") -> Path:
    Image.fromarray(picture(0)).convert(mode).save(path)
    return path


Kind = tuple[str, Callable[[Path], Path], tuple[int, int], int]

KINDS: dict[str, Kind] = {
    "longer than a chunk": ("a.mp4", lambda path: encode(path, pictures(20)), (64, 48), 20),
    "shorter than a chunk": ("a.mp4", lambda path: encode(path, pictures(5)), (64, 48), 5),
    "one frame": ("a.mp4", lambda path: encode(path, pictures(1)), (64, 48), 1),
    "variable rate": (
        "a.mkv",
        lambda path: encode(path, pictures(7), milliseconds=VARIABLE),
        (64, 48),
        7,
    ),
    "turned": ("a.mp4", lambda path: encode(path, pictures(3), rotation=90), (48, 64), 3),
    "odd size": ("a.mkv", odd, (63, 47), 4),
    "one pixel": (
        "a.mkv",
        lambda path: encode(path, [picture(0)[:1, :1]], codec="ffv1", pixel_format="bgr0"),
        (1, 1),
        1,
    ),
    "transparent": ("a.webm", transparent, (64, 48), 3),
    "grey": ("a.mkv", lambda path: deep(path, "gray"), (64, 48), 3),
    "10-bit": ("a.mkv", lambda path: deep(path, "yuv420p10le"), (64, 48), 3),
    "10-bit grey": ("a.mkv", lambda path: deep(path, "gray10le"), (64, 48), 3),
    "MPEG-2": (
        "a.mpg",
        lambda path: encode(path, pictures(6), codec="mpeg2video", fps=25),
        (64, 48),
        6,
    ),
    "GIF": ("a.gif", animation, (64, 48), 4),
    "PNG": ("a.png", still, (64, 48), 1),
    "JPEG": ("a.jpg", still, (64, 48), 1),
    "grey PNG": ("a.png", lambda path: still(path, "L"), (64, 48), 1),
    "palette PNG": ("a.png", lambda path: still(path, "P"), (64, 48), 1),
    "transparent PNG": ("a.png", lambda path: still(path, "RGBA"), (64, 48), 1),
    "CMYK JPEG": ("a.jpg", lambda path: still(path, "CMYK"), (64, 48), 1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tiles", ["resize", "pad"])
def test_files_of_every_kind(kind: str, tiles: str, tmp_path: Path) -> None:
    name, make, (width, height), num_frames = KINDS[kind]
    path = make(tmp_path / name)
    gaze = gaze_video(path, selector=SMALL, loss=0.03, tiles=tiles)
    source = gaze.source
    assert source is not None
    assert (source.tiles.width, source.tiles.height) == (width, height)
    assert source.frame_indices == tuple(range(num_frames))
    assert source.timestamps[0] == 0
    assert list(source.timestamps) == sorted(set(source.timestamps))
    if kind == "variable rate":
        assert [round(1000 * seconds) for seconds in source.timestamps] == VARIABLE

    boxes = gaze.rectangles()
    assert (gaze.lengths >= 1).all()
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([width, height] * 2)).all()

    reader = ChunkReader(path, side=32, tiles=tiles)
    frames = torch.cat([chunk.clips.frames for chunk in reader], dim=1)
    assert gaze.losses is not None
    torch.testing.assert_close(gaze.losses, canvas_losses(frames, gaze), rtol=0, atol=1e-5)
    met = gaze.losses <= 0.03
    assert (met | (gaze.lengths == gaze.pyramid.num_patches)).all()


@pytest.mark.parametrize("fps", [1.0, 1000.0])
@pytest.mark.parametrize("name", ["one.mp4", "still.png"])
def test_one_frame_at_any_rate(name: str, fps: float, tmp_path: Path) -> None:
    path = tmp_path / name
    (still(path) if path.suffix == ".png" else encode(path, pictures(1)))
    assert gaze_video(path, selector=SMALL, ratio=0.2, fps=fps).num_frames == 1
