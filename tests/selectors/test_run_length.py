"""Run-length: exactly what changed from tubelet to tubelet."""

import pytest
import torch

from autogaze.errors import SelectorError
from autogaze.geometry import PatchPyramid
from autogaze.selectors.run_length import RunLength
from autogaze.utils.normalization import IMAGENET
from tests.selectors.clips import change_cells, still_clips

PYRAMID = PatchPyramid((8, 16), 4)
FINEST = PYRAMID.offsets[-1]


def cells(gaze, frame, clip=0):
    return sorted((gaze.frame(clip, frame) - FINEST).tolist())


def test_the_first_tubelet_is_whole_and_then_only_what_changed():
    frames = still_clips(PYRAMID, 2, 6)
    change_cells(frames[0, 2:], PYRAMID, [3, 7])
    change_cells(frames[1, 5:], PYRAMID, [0])
    gaze = RunLength(PYRAMID).select(frames)
    for frame in (0, 1):
        assert cells(gaze, frame) == list(range(16))
    for frame in (2, 3):
        assert cells(gaze, frame) == [3, 7]
        assert len(cells(gaze, frame, clip=1)) == 1
    for frame in (4, 5):
        assert len(cells(gaze, frame)) == 1
        assert cells(gaze, frame, clip=1) == [0]


def test_the_threshold_is_in_imagenet_units():
    frames = torch.full((1, 4, 3, 16, 16), 0.5)
    step = 0.1 * torch.tensor(IMAGENET.std).view(3, 1, 1)
    frames[:, 2:, :, :4, :4] += 0.98 * step
    frames[:, 2:, :, :4, 4:8] += 1.02 * step
    frames[:, 2:, :, :4, 8:12] -= 1.04 * step
    gaze = RunLength(PYRAMID).select(frames)
    assert (gaze.frame(0, 2) - FINEST).tolist() == [2, 1]  # most changed first
    assert torch.equal(gaze.frame(0, 3), gaze.frame(0, 2))
    assert cells(RunLength(PYRAMID, threshold=0.09).select(frames), 2) == [0, 1, 2]


def test_an_odd_clip_ends_with_one_frame():
    frames = still_clips(PYRAMID, 1, 5)
    change_cells(frames[0, 4:], PYRAMID, [9])
    gaze = RunLength(PYRAMID).select(frames)
    assert gaze.lengths.tolist() == [[16, 16, 1, 1, 1]]
    assert cells(gaze, 4) == [9]
    assert RunLength(PYRAMID).select(frames[:, :1]).lengths.tolist() == [[16]]


def test_slow_drift_is_seen_since_last_kept_only():
    frames = torch.full((1, 20, 3, 16, 16), 0.2)
    for index in range(20):
        frames[0, index, :, 4:8, 4:8] += 0.005 * index  # 0.005 / 0.225 per frame
    previous = RunLength(PYRAMID, threshold=0.08).select(frames)
    kept = RunLength(PYRAMID, threshold=0.08, since="kept").select(frames)
    assert previous.lengths[0, 2:].tolist() == [1] * 18
    # The single patch that a frame has to take is the drifting cell, in both: so a
    # second cell is needed to see the difference.
    frames[0, :, :, 12:, 12:] = frames[0, :, :, 4:8, 4:8] * 0.9
    previous = RunLength(PYRAMID, threshold=0.08).select(frames)
    kept = RunLength(PYRAMID, threshold=0.08, since="kept").select(frames)
    assert all(15 not in cells(previous, frame) for frame in range(2, 20))
    assert any(15 in cells(kept, frame) for frame in range(2, 20))


def test_cells_left_out_under_a_cap_come_next():
    frames = still_clips(PYRAMID, 1, 8)
    change_cells(frames[0, 2:], PYRAMID, [1, 2, 3])
    ratio = [1.0, 1.0] + [0.1] * 6  # then two patches per frame
    gaze = RunLength(PYRAMID, since="kept").select(frames, ratio=ratio)
    assert gaze.lengths.tolist() == [[16, 16, 2, 2, 1, 1, 1, 1]]
    assert sorted(cells(gaze, 2) + cells(gaze, 4)) == [1, 2, 3]


def test_both_frames_of_a_tubelet_keep_their_own_cap():
    frames = still_clips(PYRAMID, 1, 4)
    change_cells(frames[0, 2:], PYRAMID, [1, 2, 3])
    gaze = RunLength(PYRAMID).select(frames, ratio=[0.2, 1.0, 0.1, 0.05])
    assert gaze.lengths.tolist() == [[4, 16, 2, 1]]
    assert gaze.frame(0, 0).tolist() == [0, 1, 2, 3]
    assert gaze.frame(0, 2)[:1].tolist() == gaze.frame(0, 3).tolist()


@pytest.mark.parametrize("bad", [{"threshold": -1.0}, {"threshold": float("nan")}])
def test_impossible_rules_are_refused(bad):
    with pytest.raises(SelectorError):
        RunLength(PYRAMID, **bad)
