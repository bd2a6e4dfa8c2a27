import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze import Gaze, PatchPyramid
from autogaze.errors import MLLMError
from autogaze.mllm.nvila.gazed_video import GazedClips, GazedVideo, token_rows
from tests.mllm.nvila.tiny import PYRAMID

LENGTHS = st.integers(1, 4).flatmap(
    lambda frames: st.lists(
        st.lists(st.integers(0, 7), min_size=frames, max_size=frames), min_size=1, max_size=4
    )
)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 10))
def test_tokens_hold_patches_frame_first(lengths, shuffle):
    """By the recipe: of each frame all clips' patches in order, the last one repeated."""
    row, rows = 0, {}
    for clip, counts in enumerate(lengths):
        for frame, count in enumerate(counts):
            rows[clip, frame] = list(range(row, row + count))
            row += count
    expected = []
    for frame in range(len(lengths[0])):
        patches = [patch for clip in range(len(lengths)) for patch in rows[clip, frame]]
        while len(patches) % shuffle:
            patches.append(patches[-1])
        expected += [patches[at : at + shuffle] for at in range(0, len(patches), shuffle)]
    found = token_rows(torch.tensor(lengths), shuffle)
    assert found.tolist() == expected


def make_clips(lengths: list[list[int]], *, tiled: bool = True) -> GazedClips:
    ids = torch.cat([torch.arange(count) for clip in lengths for count in clip])
    gaze = Gaze(PYRAMID, ids, torch.tensor(lengths), ordered=False)
    pixels = torch.arange(len(ids)).float()[:, None, None, None].expand(-1, 3, 14, 14)
    return GazedClips(gaze, pixels, tiled)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 10))
def test_the_number_of_tokens(lengths, shuffle):
    clips, thumbnails = make_clips(lengths), make_clips([[3], [0], [10]], tiled=False)
    tiles = sum(math.ceil(sum(frame) / shuffle) for frame in zip(*lengths, strict=True))
    small = math.ceil(3 / shuffle) + math.ceil(10 / shuffle)
    assert clips.num_tokens(shuffle) == tiles == len(clips.token_rows(shuffle))
    assert thumbnails.num_tokens(shuffle) == small == len(thumbnails.token_rows(shuffle))
    assert GazedVideo((clips, clips), thumbnails).num_tokens(shuffle) == 2 * tiles + small


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 5))
def test_split_keeps_clips_whole(lengths, size):
    clips = make_clips(lengths)
    parts = list(clips.split(size))
    assert [part.gaze.num_clips for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert Gaze.cat_clips([part.gaze for part in parts]).ids.equal(clips.gaze.ids)
    assert torch.cat([part.pixels for part in parts]).equal(clips.pixels)


def test_nothing_kept_is_an_error():
    with pytest.raises(MLLMError):
        GazedVideo((make_clips([[0, 0]]),))
    assert GazedVideo((make_clips([[0, 0]]), make_clips([[0, 1]]))).num_tokens(9) == 1


def test_parts_of_several_pyramids_are_an_error():
    other = Gaze.everything(PatchPyramid((56,), 14), 1, 1)
    with pytest.raises(MLLMError):
        GazedVideo((make_clips([[1]]), GazedClips(other, torch.zeros(16, 3, 14, 14))))


def test_pixels_of_other_patches_are_an_error():
    with pytest.raises(MLLMError):
        GazedClips(make_clips([[2, 1]]).gaze, torch.zeros(2, 3, 14, 14))
