"""Overlays: bright where something was chosen, outlined by scale, dim elsewhere."""

from pathlib import Path

import av
import numpy as np
import pytest

from autogaze.errors import OutputError
from autogaze.geometry import PatchPyramid
from autogaze.rendering import OverlayVideo, ReconstructionVideo
from autogaze.rendering.base import chosen_patches
from autogaze.rendering.overlay import Caption
from autogaze.rendering.painter import PANEL, dim, draw_overlay, patch_maps, scale_colours
from autogaze.rendering.summary import FrameStats, frame_stats
from tests.rendering.chunks import GRID, PYRAMID, chunk


def drawn(ids: list[list[list[int]]]) -> np.ndarray:
    frame = np.full((64, 128, 3), 255, dtype=np.uint8)
    return draw_overlay(
        frame,
        chosen_patches(chunk(ids), 0),
        patch_maps(PYRAMID, GRID, 128, 64, line=1),
        scale_colours(2),
    )


def test_unchosen_is_dim_and_chosen_is_untouched() -> None:
    picture = drawn([[[0]], [[]]])  # the coarse top left patch of the left tile
    assert (picture[1:31, 1:31] == 255).all()
    assert (picture[:, 32:] < 90).all()
    assert (picture[32:] < 90).all()


def test_outlines_have_their_scales_colour_finest_on_top() -> None:
    coarse, fine = scale_colours(2)
    picture = drawn([[[]], [[1, 4 + 3]]])  # coarse top right, and the fine one in its corner
    assert (picture[0, 64 + 32 : 64 + 48] == coarse).all()
    assert (picture[0, 64 + 48 :] == fine).all()
    assert (picture[15, 64 + 48 :] == fine).all()
    assert (picture[31, 64 + 32 :] == coarse).all()
    assert (picture[:, :64] < 90).all()


def test_nothing_chosen_is_all_dim() -> None:
    white = np.full((64, 128, 3), 255, dtype=np.uint8)
    assert (drawn([[[]], [[]]]) == dim(white)).all()


def test_dim_keeps_order_and_loses_colour() -> None:
    frame = np.array([[[0, 0, 0], [255, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    ghost = dim(frame)
    assert (ghost[..., 0] == ghost[..., 1]).all()
    assert ghost[0, 0, 0] < ghost[0, 1, 0] < ghost[0, 2, 0] < 90


def test_frame_statistics_are_summed_over_tiles() -> None:
    first, second = frame_stats(chunk([[[0], []], [[5], [1, 2, 19]]], first=7))
    assert (first.number, first.seconds, first.kept, first.total) == (7, 0.7, (1, 1), 40)
    assert first.loss == pytest.approx(0.07)
    assert second.kept == (2, 1)
    assert second.loss == pytest.approx(0.08)


@pytest.mark.parametrize("width", [160, 320, 640, 1280])
@pytest.mark.parametrize("scales", [(32,), (32, 64, 112, 224)])
def test_caption_fits_any_width(width: int, scales: tuple[int, ...]) -> None:
    caption = Caption(PatchPyramid(scales), width, num_tiles=15)
    strip = caption.draw(FrameStats(12, 0.4, tuple(range(len(scales))), 265, 0.0312))
    assert strip.shape == (caption.height, width, 3)
    assert caption.height % 2 == 0
    assert (strip[:, -2:] == PANEL).all()  # nothing runs over the edge
    assert (strip != PANEL).any()


def read(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_overlay_video(tmp_path: Path) -> None:
    path = tmp_path / "overlay.mp4"
    with OverlayVideo(path, fps=10.0, shortest=320) as video:
        video.add(chunk([[[0], [1]], [[], []]]))
        video.add(chunk([[[]], [[3]]], first=2))
    frames = read(path)
    assert len(frames) == 3
    height, width, _ = frames[0].shape
    assert width == 320
    assert 160 < height < 320  # the picture, and the caption under it
    # The bright quarter wanders as the gaze does; a codec rounds a little.
    means = [
        [frame[y : y + 60, x : x + 60].mean() for y in (10, 90) for x in (10, 90, 170, 250)]
        for frame in frames
    ]
    assert [int(np.argmax(mean)) for mean in means] == [0, 1, 7]
    assert all(sorted(mean)[-1] > 220 and sorted(mean)[-2] < 100 for mean in means)


def test_reconstruction_video(tmp_path: Path) -> None:
    path = tmp_path / "canvas.mp4"
    with ReconstructionVideo(path, fps=10.0, shortest=0) as video:
        video.add(chunk([[[0]], [[0]]]))  # white frames, whose canvas is black here
    (frame,) = read(path)
    assert frame.shape == (64, 128, 3)
    assert frame.max() < 20


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "overlay.mp4"

    def stop() -> None:
        with OverlayVideo(path, fps=10.0) as video:
            video.add(chunk([[[0]], [[0]]]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_path_is_reported_before_any_work(tmp_path: Path) -> None:
    absent = tmp_path / "no" / "x.mp4"
    with pytest.raises(OutputError, match="does not exist"), OverlayVideo(absent, fps=9.0):
        raise AssertionError("must not get here")
