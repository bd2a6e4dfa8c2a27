"""Frame by frame: the same gaze as of the clip, whoever looks ahead included."""

import numpy as np
import pytest
import torch

import autogaze
from autogaze.demo.live import LiveGaze, LiveSettings
from autogaze.demo.selectors import SelectorPool
from autogaze.pipeline import CHUNK
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.video.tiling import cut_tiles, plan_tiles
from tests.clips import moving_square


@pytest.mark.parametrize("name", ["greedy", "run-length", "learned"])
def test_frames_are_gazed_at_as_the_clip(name):
    frames = moving_square(CHUNK + 2, 96, 64)
    live = LiveGaze(SelectorPool([name]), LiveSettings(name, 0.1))
    shown = [one for one in map(live.look, frames) if one is not None]
    tiles = cut_tiles(list(frames), plan_tiles(96, 64, 224, "one"))
    gazes = [autogaze.load(name).select(part, ratio=0.1) for part in tiles.split(CHUNK, dim=1)]
    kept = [int(count) for gaze in gazes for count in gaze.lengths[0]]
    losses = torch.cat(
        [
            canvas_losses(part, gaze)[0]
            for part, gaze in zip(tiles.split(CHUNK, 1), gazes, strict=True)
        ]
    ).tolist()
    # Who looks ahead shows the last of the frames that were decided together.
    numbers = [one.number - 1 for one in shown]
    assert numbers[-1] == CHUNK + 1
    assert [sum(one.kept) for one in shown] == [kept[number] for number in numbers]
    assert [one.loss for one in shown] == pytest.approx(
        [losses[number] for number in numbers], abs=1e-5
    )
    assert all(one.total == 265 for one in shown)


def test_pictures_and_rates():
    live = LiveGaze(SelectorPool(["random"]), LiveSettings("random", 0.1))
    for frame in moving_square(3, 1280, 720):
        shown = live.look(frame)
    assert shown.overlay.shape == shown.canvas.shape == (360, 640, 3)
    assert shown.rate > 0
    assert shown.milliseconds > 0


def test_a_camera_that_turns_starts_afresh():
    live = LiveGaze(SelectorPool(["run-length"]), LiveSettings("run-length", 0.1))
    live.look(moving_square(1, 96, 64)[0])
    assert live.look(moving_square(1, 64, 96)[0]) is None
    shown = live.look(moving_square(2, 64, 96)[1])
    assert shown.overlay.shape == (96, 64, 3)


def test_a_flat_frame():
    live = LiveGaze(SelectorPool(["greedy"]), LiveSettings("greedy", None, 0.01))
    shown = live.look(np.full((48, 64, 3), 128, np.uint8))
    assert sum(shown.kept) >= 1
    assert shown.loss < 0.01
