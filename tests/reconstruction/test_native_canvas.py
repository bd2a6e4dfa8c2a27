"""The native canvas losses: those of painting in Python, which is used where it cannot be built."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.errors import GeometryError, SelectorError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction import native_canvas as kernel
from autogaze.reconstruction.canvas import (
    canvas_losses,
    reconstruct,
    repaint,
    replay,
    squares_of,
)
from autogaze.reconstruction.native_canvas import canvas_kernel
from autogaze.reconstruction.resample import resampled_scales
from autogaze.source import Source, TileGrid

PYRAMIDS = [
    PatchPyramid((8, 16, 28, 56), 4),  # as 32+64+112+224 / 16
    PatchPyramid((32,), 16),
    PatchPyramid((16, 48), 16),
    PatchPyramid((27, 54, 70), 9, crop=True),  # cells of uneven widths, and a margin
    PatchPyramid((9, 33, 65), 8, crop=True),  # no whole vectors
]
BYTES = torch.zeros(1, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def chosen_here(monkeypatch):
    """The kernel is not chosen from outside."""
    monkeypatch.delenv(kernel.SWITCH, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing compiled yet, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel._built.cache_clear()
    yield tmp_path
    kernel._built.cache_clear()


def compiled() -> None:
    if (found := canvas_kernel(BYTES)).library is None:
        pytest.skip(found.why)


def a_clip(pyramid, clips=3, frames=5, share=0.3, seed=0, source=None):
    """Frames, from smooth to noise, and a random gaze at them with some empty frames."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(clips * frames, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(small, size=(pyramid.side,) * 2, mode="bicubic")
    pixels = smooth.clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = pixels.view(clips, frames, 3, pyramid.side, pyramid.side)
    pixels[0] = torch.randint(0, 256, pixels[0].shape, generator=generator, dtype=torch.uint8)
    mask = torch.rand(clips, frames, pyramid.num_patches, generator=generator) < share
    mask[:, 2:3] = False
    return pixels, Gaze.from_mask(pyramid, mask, source=source)


def painted(frames, gaze):
    return torch.stack([loss for _, loss in replay(frames, gaze)], dim=1)


@given(
    st.sampled_from(PYRAMIDS),
    st.integers(1, 4),
    st.sampled_from([0.02, 0.3, 1]),
    st.integers(0, 99),
)
@settings(max_examples=15)
def test_losses_are_those_of_painting(pyramid, clips, share, seed):
    compiled()
    frames, gaze = a_clip(pyramid, clips, share=share, seed=seed)
    found = canvas_losses(frames, gaze)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, painted(frames, gaze), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pyramid", PYRAMIDS)
def test_pictures_are_the_canvas(pyramid, monkeypatch):
    compiled()
    grid = TileGrid(32, 32, 3, 1, 32, 32, 32)
    source = Source(grid, tuple(map(float, range(5))), tuple(range(5)), 3)  # restarts once
    frames, gaze = a_clip(pyramid, source=source)
    pictures = torch.empty_like(frames)
    losses = canvas_losses(frames, gaze, pictures)
    assert torch.equal(losses, canvas_losses(frames, gaze))
    expected = reconstruct(frames, gaze).frames * 255
    assert ((pictures - expected).abs() < 0.5 + 1e-3).all()

    with pytest.raises(GeometryError, match="contiguous uint8"):
        canvas_losses(frames, gaze, pictures.mT)

    monkeypatch.setenv(kernel.SWITCH, "torch")
    by_pytorch = torch.empty_like(frames)
    canvas_losses(frames, gaze, by_pytorch)
    assert torch.equal(by_pytorch, expected.round().to(torch.uint8))


@pytest.mark.parametrize("switch", ["torch", "native"])
@pytest.mark.parametrize("pyramid", PYRAMIDS)
def test_frames_are_repainted_where_they_were_gazed_at(pyramid, switch, monkeypatch):
    compiled()
    monkeypatch.setenv(kernel.SWITCH, switch)
    frames, gaze = a_clip(pyramid)
    frames, mask = frames[:, 0], gaze.mask[:, 0]
    found = repaint(frames, pyramid, mask)
    channels_last = frames.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(repaint(channels_last, pyramid, mask), found)
    scales = resampled_scales(frames / 255, pyramid) * 255
    expected = frames.float()
    for clip, patch in mask.nonzero().tolist():  # coarse to fine
        level, rows, columns = squares_of(pyramid)[patch]
        expected[clip, :, rows, columns] = scales[clip, level, :, rows, columns]
    assert ((found - expected).abs() < 0.5 + 1e-3).all()


def test_a_frame_gazed_at_finely_and_whole_has_no_loss():
    compiled()
    pyramid = PYRAMIDS[0]
    frames, _ = a_clip(pyramid)
    mask = torch.zeros(3, 5, pyramid.num_patches, dtype=torch.bool)
    mask[..., pyramid.offsets[-1] :] = True
    assert (canvas_losses(frames, Gaze.from_mask(pyramid, mask)) == 0).all()


def test_the_canvas_restarts_with_every_chunk():
    compiled()
    pyramid = PatchPyramid((16, 32), 16)
    grid = TileGrid(32, 32, 1, 1, 32, 32, 32)
    source = Source(grid, tuple(map(float, range(5))), tuple(range(5)), 2)
    frames, gaze = a_clip(pyramid, clips=1, source=source)
    found = canvas_losses(frames, gaze)
    torch.testing.assert_close(found, painted(frames, gaze), rtol=1e-6, atol=1e-7)
    grey = (frames[0, 2] / 255 - 0.5).abs().mean()  # an empty frame at the start of a chunk
    torch.testing.assert_close(found[0, 2], grey, rtol=1e-6, atol=1e-7)


def test_views_of_other_frames_are_read_where_they_are():
    compiled()
    frames, gaze = a_clip(PYRAMIDS[0])
    every = torch.full((6, 10, *frames.shape[2:]), 99, dtype=torch.uint8)
    every[::2, 1::2] = frames
    assert torch.equal(canvas_losses(every[::2, 1::2], gaze), canvas_losses(frames, gaze))
    last = frames.movedim(2, -1).contiguous().movedim(-1, 2)  # channels last in memory
    assert torch.equal(canvas_losses(last, gaze), canvas_losses(frames, gaze))


def test_canvases_go_on_in_the_next_call():
    compiled()
    library = canvas_kernel(BYTES).library
    frames, gaze = a_clip(PYRAMIDS[0])
    canvases = kernel.new_canvases(gaze.pyramid, 3)
    parts = [
        library.measure(
            gaze.pyramid,
            frames[:, part],
            gaze.mask[:, part],
            np.array(restarts, np.uint8),
            canvases,
        )
        for part, restarts in ((slice(0, 2), [1, 0]), (slice(2, 5), [0, 0, 0]))
    ]
    assert torch.equal(torch.cat(parts, dim=1), canvas_losses(frames, gaze))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads):
    compiled()
    frames, gaze = a_clip(PYRAMIDS[0], clips=4)
    before = canvas_losses(frames, gaze)
    torch.set_num_threads(threads)
    assert torch.equal(canvas_losses(frames, gaze), before)


def test_what_is_used_where(monkeypatch):
    assert canvas_kernel(torch.zeros(1)).name == "torch"
    monkeypatch.setenv(kernel.SWITCH, "torch")
    assert canvas_kernel(BYTES).name == "torch"
    frames, gaze = a_clip(PYRAMIDS[0])
    assert torch.equal(canvas_losses(frames, gaze), painted(frames, gaze))
    monkeypatch.setenv(kernel.SWITCH, "fast")
    with pytest.raises(SelectorError, match="AUTOGAZE_CANVAS"):
        canvas_losses(frames, gaze)


def test_without_a_compiler_losses_are_painted(monkeypatch, fresh):
    monkeypatch.setenv("CC", str(fresh / "no-compiler"))
    found = canvas_kernel(BYTES)
    assert found.name == "torch"
    assert "no-compiler" in found.why
    frames, gaze = a_clip(PYRAMIDS[0])
    assert torch.equal(canvas_losses(frames, gaze), painted(frames, gaze))
    monkeypatch.setenv(kernel.SWITCH, "native")
    with pytest.raises(SelectorError, match="no-compiler"):
        canvas_losses(frames, gaze)


def test_a_kernel_that_computes_wrongly_is_not_used(monkeypatch, fresh):
    compiled()
    kernel._built.cache_clear()
    wrong = fresh / "canvas_loss.c"
    source = kernel.SOURCE.read_text()
    assert "127.5f" in source
    wrong.write_text(source.replace("127.5f", "0.0f"))
    monkeypatch.setattr(kernel, "SOURCE", wrong)
    assert canvas_kernel(BYTES).name == "torch"
