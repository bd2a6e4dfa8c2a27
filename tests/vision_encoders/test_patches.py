"""Chosen cells of resized frames, and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from autogaze import Gaze, PatchPyramid
from autogaze.vision_encoders import patches as module
from autogaze.vision_encoders.patches import gazed_patches
from tests.gazes import gazes
from tests.vision_encoders.families import random_frames

PYRAMIDS = (
    PatchPyramid((32, 64), 16),
    PatchPyramid((8, 12, 28), 4),
    PatchPyramid((20, 30), 7, crop=True),
    PatchPyramid((24,), 8),
)


def brute_force(frames, gaze):
    """Every frame resized to every scale, cut by unfold, and only then chosen from."""
    p = gaze.pyramid.patch_size
    rows = []
    for index, frame in enumerate(frames):
        cells = []
        for scale in gaze.pyramid.scales:
            small = F.interpolate(frame[None], (scale, scale), mode="bicubic", align_corners=False)
            cells.append(F.unfold(small, p, stride=p)[0].T.unflatten(1, (3, p, p)))
        chosen = gaze.ids[gaze.offsets[index] : gaze.offsets[index + 1]]
        rows.append(torch.cat(cells)[chosen])
    return torch.cat(rows)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 99), frames_at_once=st.integers(1, 5))
def test_they_are_the_cells_of_resized_frames(data, seed, frames_at_once):
    gaze = data.draw(gazes(data.draw(st.sampled_from(PYRAMIDS))))
    frames = random_frames(*gaze.lengths.shape, gaze.pyramid.side, seed).flatten(0, 1)
    found = gazed_patches(frames, gaze.ids, gaze.frame_of_patch, gaze.pyramid, frames_at_once)
    p = gaze.pyramid.patch_size
    assert found.shape == (gaze.num_patches, 3, p, p)
    torch.testing.assert_close(found, brute_force(frames, gaze), rtol=0, atol=1e-6)


def test_only_scales_that_were_gazed_at_are_resized_to(monkeypatch):
    resized = []

    def counting(frames, scale):
        resized.append((len(frames), scale))
        return F.interpolate(frames, (scale, scale), mode="bicubic")

    monkeypatch.setattr(module, "resize", counting)
    pyramid = PatchPyramid((32, 48, 64), 16)
    # Frame 0 at 64 only, frame 1 at 48, frame 2 at 48 and 64, frame 3 not at all.
    ids = torch.tensor([20, 5, 6, 4, 28])
    gaze = Gaze(pyramid, ids, torch.tensor([[1, 2, 2, 0]]))
    frames = random_frames(1, 4)[0]
    gazed_patches(frames, gaze.ids, gaze.frame_of_patch, pyramid)
    assert resized == [(2, 48)]


def test_gradients_reach_the_pixels_that_were_seen():
    pyramid = PatchPyramid((64,), 16)
    frames = random_frames(1, 2)[0].requires_grad_()
    gaze = Gaze(pyramid, torch.tensor([5]), torch.tensor([[0, 1]]))
    gazed_patches(frames, gaze.ids, gaze.frame_of_patch, pyramid).sum().backward()
    expected = torch.zeros_like(frames)
    expected[1, :, 16:32, 16:32] = 1
    assert frames.grad.equal(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_stays(dtype):
    pyramid = PatchPyramid((32, 64), 16)
    frames = random_frames(1, 1)[0].to(dtype)
    gaze = Gaze.everything(pyramid, 1, 1)
    found = gazed_patches(frames, gaze.ids, gaze.frame_of_patch, pyramid)
    assert found.dtype == dtype
    expected = brute_force(frames.double(), gaze)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.05)
