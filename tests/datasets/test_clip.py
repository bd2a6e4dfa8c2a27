"""Batches of training clips."""

import pytest
import torch

from autogaze.datasets.clip import GazeLabels, TrainingClip, UnreadableClip, collate
from autogaze.errors import GeometryError, TrainingError
from autogaze.geometry import PatchPyramid
from tests.datasets.pictures import some_frames

PYRAMID = PatchPyramid((16, 32), 16)


def test_unreadable_clips_are_counted_not_replaced():
    good = TrainingClip(some_frames(), "a/b/c.mp4")
    bad = UnreadableClip("a/b/d.mp4", "truncated")
    batch = collate([good, bad, good])
    assert len(batch) == 2
    assert batch.frames.shape == (2, 4, 3, 32, 32)
    assert batch.names == ("a/b/c.mp4", "a/b/c.mp4")
    assert batch.unreadable == (bad,)
    nothing = collate([bad, bad])
    assert len(nothing) == 0
    assert len(nothing.unreadable) == 2


def test_frames_come_as_rgb_in_unit_range():
    batch = collate([TrainingClip(some_frames(), "x")])
    assert torch.equal(batch.rgb(), batch.frames / 255)


def test_labels_become_a_gaze():
    labels = GazeLabels(((3, 1), (), (0,), (4, 2, 0)), ())
    batch = collate([TrainingClip(some_frames(), "x", labels)] * 2)
    gaze = batch.gaze(PYRAMID)
    assert gaze.lengths.tolist() == [[2, 0, 1, 3]] * 2
    assert gaze.frame(1, 3).tolist() == [4, 2, 0]
    with pytest.raises(GeometryError, match=r"\[0, 4\)"):
        batch.gaze(PatchPyramid((32,), 16))
    with pytest.raises(TrainingError, match=r"^x: .*labels.*`autogaze label`"):
        collate([TrainingClip(some_frames(), "x")]).gaze(PYRAMID)


def test_clips_of_two_sizes_make_no_batch():
    with pytest.raises(TrainingError, match=r"\(4, 3, 32, 32\).*\(4, 3, 16, 16\)"):
        collate([TrainingClip(some_frames(), "x"), TrainingClip(some_frames(side=16), "y")])
