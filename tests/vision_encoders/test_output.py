"""Reading a result: by frame, or padded."""

import pytest
import torch
from hypothesis import given, settings

from autogaze import Gaze
from autogaze.errors import EncoderError
from autogaze.vision_encoders.encode import GazedOutput
from tests.gazes import SMALL, gazes


@settings(deadline=None)
@given(gaze=gazes())
def test_frames_and_padded_rows_are_the_features(gaze):
    features = torch.randn(gaze.num_patches, 5)
    out = GazedOutput(last_hidden_state=features, gaze=gaze)
    frames = [
        [out.frame(clip, frame) for frame in range(gaze.num_frames)]
        for clip in range(gaze.num_clips)
    ]
    for clip, rows in enumerate(frames):
        assert [len(row) for row in rows] == gaze.lengths[clip].tolist()
    assert torch.cat([row for rows in frames for row in rows]).equal(features)
    padded, is_padding = out.padded()
    longest = int(gaze.lengths.sum(1).max())
    assert padded.shape == (gaze.num_clips, longest, 5)
    assert is_padding.shape == padded.shape[:2]
    assert padded[is_padding].abs().sum() == 0
    for clip, rows in enumerate(frames):
        expected = torch.cat(rows)
        assert padded[clip][~is_padding[clip]].equal(expected)
        assert padded[clip, : len(expected)].equal(expected)  # padding stands behind


def test_frames_count_from_the_end_too():
    gaze = gazes_of_two()
    out = GazedOutput(last_hidden_state=torch.arange(3.0)[:, None], gaze=gaze)
    assert out.frame(-1, -1).tolist() == [[2.0]]
    with pytest.raises(IndexError):
        out.frame(0, 2)


def gazes_of_two():
    return Gaze(SMALL, torch.tensor([4, 2, 9]), torch.tensor([[2, 1]]))


def test_it_is_a_transformers_output():
    out = GazedOutput(last_hidden_state=torch.zeros(3, 5), gaze=gazes_of_two())
    assert out["last_hidden_state"] is out.last_hidden_state
    assert out[0] is out.last_hidden_state
    assert "pooler_output" not in out
    assert len(out.to_tuple()) == 2


def test_the_mean_of_a_frame_is_that_of_its_patches():
    gaze = Gaze(SMALL, torch.tensor([4, 2, 9, 1]), torch.tensor([[2, 1], [0, 1]]))
    features = torch.tensor([[1.0, 0], [3, 2], [5, 5], [7, 8]])
    means = GazedOutput(last_hidden_state=features, gaze=gaze).frame_means()
    assert means.tolist() == [[[2, 1], [5, 5]], [[0, 0], [7, 8]]]


def test_the_mean_of_a_frame_without_patches_is_that_of_the_frame_before():
    gaze = Gaze(SMALL, torch.tensor([4, 9]), torch.tensor([[1, 0, 0, 1]]))
    out = GazedOutput(last_hidden_state=torch.tensor([[1.0], [3.0]]).bfloat16(), gaze=gaze)
    assert out.frame_means().flatten().tolist() == [1, 1, 1, 3]
    assert out.frame_means().dtype == torch.bfloat16


def test_without_a_gaze_nobody_knows_where_features_belong():
    out = GazedOutput(last_hidden_state=torch.zeros(3, 5))
    for read in (out.padded, out.frame_means, lambda: out.frame(0, 0)):
        with pytest.raises(EncoderError, match="gaze=gaze"):
            read()
