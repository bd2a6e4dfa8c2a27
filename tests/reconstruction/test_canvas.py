"""The canvas: what is painted, what stays, and what it costs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.errors import AutoGazeError, GeometryError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import GREY, Canvas, canvas_losses, reconstruct
from autogaze.reconstruction.resample import resampled_scales
from autogaze.source import Source, TileGrid
from tests.selectors.clips import (
    CROPPED,
    exact_pyramids,
    pyramids,
    random_clips,
    seeds,
    still_clips,
)

quick = settings(max_examples=25, deadline=None)


def random_mask(pyramid: PatchPyramid, num_clips: int, num_frames: int, seed: int, share: float):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_clips, num_frames, pyramid.num_patches, generator=generator) < share


@quick
@given(exact_pyramids, seeds)
def test_gazing_at_everything_loses_nothing(pyramid, seed):
    frames = random_clips(pyramid, 2, 3, seed)
    rebuilt = reconstruct(frames, Gaze.everything(pyramid, 2, 3))
    assert torch.equal(rebuilt.frames, frames)
    assert torch.equal(rebuilt.losses, torch.zeros(2, 3))


def test_a_cropped_pyramid_leaves_its_margin_grey():
    frames = random_clips(CROPPED, 1, 1, seed=0)
    picture = reconstruct(frames, Gaze.everything(CROPPED, 1, 1)).frames[0, 0]
    assert torch.equal(picture[:, :8, :8], frames[0, 0, :, :8, :8])
    assert (picture[:, 8:] == GREY).all()
    assert (picture[:, :, 8:] == GREY).all()


@quick
@given(pyramids, seeds, st.floats(0, 1))
def test_every_pixel_shows_its_finest_gazed_patch_or_stays(pyramid, seed, share):
    frames = random_clips(pyramid, 1, 2, seed)
    mask = random_mask(pyramid, 1, 2, seed, share)
    gaze = Gaze.from_mask(pyramid, mask)
    expected = torch.full_like(frames[:, 0], GREY)
    rebuilt = reconstruct(frames, gaze)
    for index in range(2):
        scales = resampled_scales(frames[:, index], pyramid)
        for patch in gaze.frame(0, index).tolist():
            scale, row, column = pyramid.locate(patch)
            edges, level = pyramid.pixel_edges(scale), pyramid.level(scale)
            rows = slice(edges[row], edges[row + 1])
            columns = slice(edges[column], edges[column + 1])
            expected[:, :, rows, columns] = scales[:, level, :, rows, columns]
        assert torch.equal(rebuilt.frames[:, index], expected)
        loss = (expected - frames[:, index]).abs().mean()
        torch.testing.assert_close(rebuilt.losses[0, index], loss)


@quick
@given(pyramids, seeds, st.floats(0, 1))
def test_both_ways_of_painting_agree(pyramid, seed, share):
    frames = random_clips(pyramid, 3, 1, seed)[:, 0]
    mask = random_mask(pyramid, 3, 1, seed, share)[:, 0]
    scales = resampled_scales(frames, pyramid)
    squares, masked = Canvas(pyramid, 3), Canvas(pyramid, 3)
    squares._paint_squares(scales, mask)
    masked._paint_masked(scales, mask)
    assert torch.equal(squares.frames, masked.frames)


def test_nothing_gazed_stays():
    pyramid = PatchPyramid((4, 8), 4)
    frames = still_clips(pyramid, 1, 3)
    mask = torch.zeros(1, 3, pyramid.num_patches, dtype=torch.bool)
    mask[:, 1] = True
    rebuilt = reconstruct(frames, Gaze.from_mask(pyramid, mask))
    assert (rebuilt.frames[:, 0] == GREY).all()
    assert torch.equal(rebuilt.frames[:, 1:], frames[:, 1:])
    torch.testing.assert_close(rebuilt.losses[0, 0], (frames[0, 0] - GREY).abs().mean())
    assert rebuilt.losses[0, 1:].tolist() == [0, 0]


def test_every_chunk_starts_at_grey():
    pyramid = PatchPyramid((4, 8), 4)
    frames = still_clips(pyramid, 1, 5)
    mask = torch.zeros(1, 5, pyramid.num_patches, dtype=torch.bool)
    mask[:, 0] = True
    source = Source(TileGrid(8, 8, 1, 1, 8, 8, 8), (0.0,) * 5, (0, 1, 2, 3, 4), chunk=2)
    losses = canvas_losses(frames, Gaze.from_mask(pyramid, mask, source=source))
    grey = float((frames[0, 0] - GREY).abs().mean())
    assert losses[0].tolist() == pytest.approx([0, 0, grey, grey, grey])
    assert canvas_losses(frames, Gaze.from_mask(pyramid, mask)).sum() == 0


def test_losses_are_those_of_the_reconstruction_for_floats_and_bytes():
    pyramid = PatchPyramid((12, 20), 4)
    frames = (random_clips(pyramid, 2, 3, seed=1) * 255).round().to(torch.uint8)
    gaze = Gaze.from_mask(pyramid, random_mask(pyramid, 2, 3, 1, 0.2))
    rebuilt = reconstruct(frames, gaze)
    torch.testing.assert_close(canvas_losses(frames, gaze), rebuilt.losses, rtol=1e-6, atol=1e-7)
    assert torch.equal(canvas_losses(frames.float() / 255, gaze), rebuilt.losses)
    assert repr(rebuilt).startswith("Reconstruction(clips=2, frames=3, side=20, loss=0.")


def test_no_frames_no_losses():
    pyramid = PatchPyramid((4, 8), 4)
    gaze = Gaze.everything(pyramid, 2, 0)
    rebuilt = reconstruct(torch.zeros(2, 0, 3, 8, 8), gaze)
    assert rebuilt.frames.shape == (2, 0, 3, 8, 8)
    assert rebuilt.losses.shape == (2, 0)
    assert canvas_losses(torch.zeros(2, 0, 3, 8, 8), gaze).shape == (2, 0)


def test_what_does_not_fit_is_refused():
    pyramid = PatchPyramid((4, 8), 4)
    gaze = Gaze.everything(pyramid, 1, 2)
    with pytest.raises(GeometryError, match=r"\(1, 2, 3, 8, 8\).*\(1, 3, 3, 8, 8\)"):
        reconstruct(torch.zeros(1, 3, 3, 8, 8), gaze)
    with pytest.raises(AutoGazeError, match=r"\[0, 1\]"):
        reconstruct(torch.full((1, 2, 3, 8, 8), float("nan")), gaze)
    with pytest.raises(AutoGazeError, match=r"\[0, 1\]"):
        canvas_losses(torch.full((1, 2, 3, 8, 8), 2.0), gaze)
    with pytest.raises(GeometryError, match="int64"):
        canvas_losses(torch.zeros(1, 2, 3, 8, 8, dtype=torch.int64), gaze)
    with pytest.raises(GeometryError, match=r"\b8\b.*9, 9"):
        resampled_scales(torch.zeros(1, 3, 9, 9), pyramid)
    with pytest.raises(GeometryError, match=r"\b1\b.*\b5\b.*\(1, 4\)"):
        Canvas(pyramid, 1).paint(torch.zeros(1, 2, 3, 8, 8), torch.zeros(1, 4, dtype=torch.bool))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_paints_the_same_picture():
    pyramid = PatchPyramid()
    frames = random_clips(pyramid, 2, 3, seed=0)
    gaze = Gaze.from_mask(pyramid, random_mask(pyramid, 2, 3, 0, 0.1))
    there = reconstruct(frames.cuda(), gaze)
    here = reconstruct(frames, gaze)
    torch.testing.assert_close(there.frames.cpu(), here.frames, atol=1e-5, rtol=0)
    torch.testing.assert_close(there.losses.cpu(), here.losses, atol=1e-6, rtol=0)
