"""Codec: moved cells, by the decoder's word alone."""

import pytest
import torch

from autogaze.clips import Clips
from autogaze.errors import SelectorError
from autogaze.geometry import PatchPyramid
from autogaze.selectors.codec import Codec

PYRAMID = PatchPyramid((8, 16), 4)
FINEST = PYRAMID.offsets[-1]
NEW = 1e4


def clips(motion: torch.Tensor) -> Clips:
    return Clips(torch.zeros(*motion.shape[:2], 3, 16, 16, dtype=torch.uint8), motion)


def test_the_first_frame_is_whole_and_then_only_what_moved():
    motion = torch.zeros(1, 4, 4, 4)
    motion[0, 0] = NEW
    motion[0, 1, 0, 2], motion[0, 1, 3, 3], motion[0, 1, 1, 1] = 3.0, 7.5, 0.25
    motion[0, 3] = NEW  # a key frame
    gaze = Codec(PYRAMID).select(clips(motion))
    assert gaze.lengths.tolist() == [[16, 2, 1, 16]]
    assert (gaze.frame(0, 1) - FINEST).tolist() == [15, 2]
    assert (gaze.frame(0, 3) - FINEST).tolist() == list(range(16))


def test_under_a_cap_new_frames_are_coarse_and_the_most_moved_come_first():
    motion = torch.zeros(2, 2, 4, 4)
    motion[:, 0] = NEW
    motion[0, 1] = NEW
    motion[1, 1] = torch.arange(16.0).view(4, 4)
    gaze = Codec(PYRAMID).select(clips(motion), ratio=0.2)
    assert gaze.frame(0, 0).tolist() == [0, 1, 2, 3]
    assert gaze.frame(0, 1).tolist() == [0, 1, 2, 3]
    assert (gaze.frame(1, 1) - FINEST).tolist() == [15, 14, 13, 12]


def test_new_content_comes_before_motion():
    motion = torch.ones(1, 2, 4, 4)
    motion[0, 1, 2, 2] = NEW
    gaze = Codec(PYRAMID).select(clips(motion), ratio=[1.0, 0.05])
    assert (gaze.frame(0, 1) - FINEST).tolist() == [10]


def test_motion_must_be_there_and_fit():
    frames = torch.zeros(1, 2, 3, 16, 16)
    with pytest.raises(SelectorError, match="motion vectors"):
        Codec(PYRAMID).select(frames)
    with pytest.raises(SelectorError, match="4 x 4 cells"):
        Codec(PYRAMID).select(Clips(frames, torch.zeros(1, 2, 5, 5)))
    for value in (-1.0, float("nan")):
        with pytest.raises(SelectorError, match="at least 0"):
            Codec(PYRAMID).select(clips(torch.full((1, 2, 4, 4), value)))
    with pytest.raises(SelectorError, match="threshold"):
        Codec(PYRAMID, threshold=-1.0)
