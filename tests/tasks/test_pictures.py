"""The picture of a task: every part where it belongs."""

import numpy as np
import torch

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.resample import resampled_scales
from autogaze.rendering.painter import dim
from autogaze.tasks.base import TaskOutput
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.tasks.pictures import GAP, task_picture
from tests.tasks.material import some_clips, some_gaze

PYRAMID = PatchPyramid((16, 32), 8)


def part(picture, row, column):
    top, left = (GAP + place * (32 + GAP) for place in (row, column))
    pixels = picture[top : top + 32, left : left + 32]
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def test_rows_are_frames_gazes_and_reconstructions():
    frames, gaze = some_clips(), some_gaze(PYRAMID)
    output = CanvasReconstruction(PYRAMID)(frames, gaze, [2, 0])
    picture = task_picture(frames, gaze, output)
    assert picture.dtype == np.uint8
    assert picture.shape == (6 * (32 + GAP) + GAP, 2 * (32 + GAP) + GAP, 3)
    for clip in range(2):
        for column, frame in enumerate(output.frames):
            shown = part(picture, 3 * clip, column)
            torch.testing.assert_close(shown, frames[clip, frame], atol=0.003, rtol=0)
            made = part(picture, 3 * clip + 2, column)
            wanted = output.reconstruction[clip, column]
            torch.testing.assert_close(made, wanted, atol=0.003, rtol=0)


def test_gazed_patches_are_bright_the_rest_is_dim():
    frames = torch.ones(1, 1, 3, 32, 32)
    fine = PYRAMID.id(32, 1, 2)
    gaze = Gaze(PYRAMID, torch.tensor([fine]), torch.tensor([[1]]))
    output = CanvasReconstruction(PYRAMID)(frames, gaze, [0])
    shown = part(task_picture(frames, gaze, output), 1, 0)
    assert (shown[:, 9:15, 17:23] == 1).all()  # inside its outline
    outline = shown[:, 8, 16:24]
    assert (outline == outline[:, :1]).all()
    assert (outline.amin(0) < 0.9).all()
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[8:16, 16:24] = False
    grey = float(dim(np.full((1, 1, 3), 255, np.uint8))[0, 0, 0]) / 255
    assert grey < 0.3
    torch.testing.assert_close(shown[:, outside], torch.full((3, 32 * 32 - 64), grey))


def test_gazed_patches_are_drawn_as_their_scale_resamples_them():
    frames = some_clips(1, 1)
    coarse, fine = PYRAMID.id(16, 0, 0), PYRAMID.id(32, 0, 0)
    gaze = Gaze(PYRAMID, torch.tensor([fine, coarse]), torch.tensor([[2]]))
    output = CanvasReconstruction(PYRAMID)(frames, gaze, [0])
    shown = part(task_picture(frames, gaze, output), 1, 0)
    resampled = resampled_scales(frames[0, 0], PYRAMID)[0]
    close = {"atol": 0.003, "rtol": 0}
    torch.testing.assert_close(shown[:, 9:15, 9:15], resampled[:, 9:15, 9:15], **close)
    torch.testing.assert_close(shown[:, 1:7, 1:7], frames[0, 0, :, 1:7, 1:7], **close)
    assert not torch.allclose(shown[:, 1:7, 1:7], resampled[:, 1:7, 1:7], **close)


def test_tasks_without_pictures_and_many_frames():
    frames, gaze = some_clips(3, 6), some_gaze(PYRAMID, 3, 6)
    output = TaskOutput(tuple(range(6)), torch.zeros(3, 6))
    picture = task_picture(frames, gaze, output, max_clips=1, max_frames=3)
    assert picture.shape == (2 * (32 + GAP) + GAP, 3 * (32 + GAP) + GAP, 3)
    for column, frame in enumerate((0, 2, 5)):
        shown = part(picture, 0, column)
        torch.testing.assert_close(shown, frames[0, frame], atol=0.003, rtol=0)
