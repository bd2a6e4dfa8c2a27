"""Frames by their numbers."""

import numpy as np
import pytest

from autogaze.errors import VideoError
from autogaze.video import Video
from tests.clips import make_video


def test_only_the_frames_with_these_numbers(tmp_path):
    path = make_video(tmp_path / "v.mp4", 20, 64, 48)
    every = list(Video(path).frames(motion=True))
    some = list(Video(path).frames(first=3, last=15, numbers={3, 9, 15, 17}, motion=True))
    assert [frame.index for frame in some] == [3, 9, 15]
    for frame in some:
        assert np.array_equal(frame.pixels, every[frame.index].pixels)
        assert frame.timestamp == every[frame.index].timestamp
    assert some[1].motion is not None
    with pytest.raises(VideoError):
        next(Video(path).frames(first=3, last=5, numbers={8}))
