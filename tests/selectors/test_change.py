"""Change: the clip's own quantile decides."""

import pytest
import torch

from autogaze.errors import SelectorError
from autogaze.geometry import PatchPyramid
from autogaze.selectors.change import Change
from tests.selectors.clips import change_cells, random_clips, still_clips

PYRAMID = PatchPyramid((8, 16), 4)
FINEST = PYRAMID.offsets[-1]


def test_exactly_the_cells_that_changed():
    frames = still_clips(PYRAMID, 2, 4)
    change_cells(frames[0, 1:], PYRAMID, [3, 7])
    change_cells(frames[0, 3:], PYRAMID, [15])
    gaze = Change(PYRAMID).select(frames)
    assert gaze.lengths.tolist() == [[16, 2, 1, 1], [16, 1, 1, 1]]
    assert sorted((gaze.frame(0, 1) - FINEST).tolist()) == [3, 7]
    assert (gaze.frame(0, 3) - FINEST).tolist() == [15]


def test_the_share_left_out_is_the_quantile():
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(3, 9, 3, 16, 16, generator=generator)
    for quantile, kept in ((0.75, 32), (0.5, 64), (0.0, 128)):
        gaze = Change(PYRAMID, quantile=quantile).select(frames)
        assert gaze.lengths[:, 1:].sum(dim=1).tolist() == [kept] * 3


def test_busy_frames_get_more_and_their_most_changed_cells_first():
    frames = random_clips(PYRAMID, 1, 3, seed=0)[:, :1].repeat(1, 3, 1, 1, 1) * 0.5
    for cell in range(8):
        edge = 4 * (cell % 4)
        row = 4 * (cell // 4)
        frames[0, 2, :, row : row + 4, edge : edge + 4] += 0.05 * (cell + 1)
    gaze = Change(PYRAMID, quantile=0.5).select(frames)
    assert gaze.lengths.tolist() == [[16, 1, 8]]
    assert (gaze.frame(0, 2) - FINEST).tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    capped = Change(PYRAMID, quantile=0.5).select(frames, ratio=0.15)
    assert capped.lengths.tolist() == [[3, 1, 3]]
    assert (capped.frame(0, 2) - FINEST).tolist() == [7, 6, 5]


def test_a_stream_decides_at_the_end():
    frames = random_clips(PYRAMID, 2, 3, seed=1)
    stream = Change(PYRAMID).stream()
    for index in range(3):
        piece = stream.step(frames[:, index : index + 1])
        assert piece.lengths.shape == (2, 0)
    assert stream.finish().lengths.shape == (2, 3)


def test_one_frame_is_taken_whole():
    assert Change(PYRAMID).select(torch.zeros(1, 1, 3, 16, 16)).lengths.tolist() == [[16]]


@pytest.mark.parametrize("quantile", [-0.1, 1.0, float("nan")])
def test_impossible_quantiles_are_refused(quantile):
    with pytest.raises(SelectorError, match="quantile"):
        Change(PYRAMID, quantile=quantile)
