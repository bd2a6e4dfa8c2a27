"""Greedy against a plain search, and what it promises about losses and caps."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import Canvas, canvas_losses
from autogaze.reconstruction.resample import resampled_scales
from autogaze.selectors.greedy import Greedy
from tests.selectors.clips import (
    CROPPED,
    EXACT,
    exact_pyramids,
    pyramids,
    random_clips,
    seeds,
    still_clips,
)

quick = settings(max_examples=20, deadline=None)
budgets = st.one_of(st.none(), st.floats(0.02, 1))
targets = st.one_of(st.none(), st.floats(0, 0.3))


def plain_losses(pyramid, canvas, scaled, frame, chosen):
    """Canvas loss after painting `chosen` and one more patch, for every other patch."""
    losses = {}
    for patch in range(pyramid.num_patches):
        if patch not in chosen:
            mask = torch.zeros(1, pyramid.num_patches, dtype=torch.bool)
            mask[0, [*chosen, patch]] = True
            trial = Canvas(pyramid, 1)
            trial.frames.copy_(canvas)
            trial.paint(scaled, mask)
            losses[patch] = float((trial.frames - frame).double().abs().mean())
    return losses


@quick
@given(pyramids.filter(lambda p: p.num_patches < 40), seeds, st.booleans())
def test_every_patch_is_the_best_one(pyramid, seed, by_loss):
    frames = random_clips(pyramid, 1, 2, seed)
    target = 0.03
    gaze = Greedy(pyramid).select(frames, **({"loss": target} if by_loss else {"ratio": 0.5}))
    canvas = Canvas(pyramid, 1)
    for index in range(2):
        frame = frames[:, index]
        scaled = resampled_scales(frame, pyramid)
        chosen: list[int] = []
        for patch in gaze.frame(0, index).tolist():
            losses = plain_losses(pyramid, canvas.frames, scaled, frame, chosen)
            best = min(losses.values())
            assert losses[patch] <= best + 1e-6
            chosen.append(patch)
        chosen = gaze.frame(0, index).tolist()
        losses = plain_losses(pyramid, canvas.frames, scaled, frame, chosen)
        mask = torch.zeros(1, pyramid.num_patches, dtype=torch.bool)
        mask[0, chosen] = True
        canvas.paint(scaled, mask)
        left = float(canvas.losses(frame))
        if by_loss:
            assert left <= target + 1e-6 or len(chosen) == pyramid.num_patches
        elif len(chosen) < int(0.5 * pyramid.num_patches):
            assert min(losses.values()) >= left - 1e-6  # it ended because nothing helps


@quick
@given(pyramids, seeds, budgets, targets)
def test_reported_losses_are_those_of_the_saved_gaze(pyramid, seed, ratio, loss):
    frames = random_clips(pyramid, 2, 3, seed)
    gaze = Greedy(pyramid).select(frames, ratio=ratio, loss=loss)
    assert gaze.metric == "canvas"
    assert gaze.ordered
    torch.testing.assert_close(gaze.losses, canvas_losses(frames, gaze), atol=1e-6, rtol=0)


@quick
@given(exact_pyramids, seeds, st.floats(0, 0.3))
@example(EXACT[2], 0, 0.0)
def test_the_loss_is_met_in_every_frame(pyramid, seed, loss):
    gaze = Greedy(pyramid).select(random_clips(pyramid, 2, 3, seed), loss=loss)
    assert (gaze.losses <= loss).all()


@quick
@given(seeds, st.floats(0, 0.3))
def test_where_the_loss_cannot_be_met_everything_is_gazed_at(seed, loss):
    gaze = Greedy(CROPPED).select(random_clips(CROPPED, 2, 3, seed), loss=loss)
    assert ((gaze.losses <= loss) | (gaze.lengths == CROPPED.num_patches)).all()


@quick
@given(pyramids, seeds, budgets, targets)
def test_frame_by_frame_and_clip_by_clip_give_the_same(pyramid, seed, ratio, loss):
    frames = random_clips(pyramid, 3, 3, seed)
    selector = Greedy(pyramid)
    gaze = selector.select(frames, ratio=ratio, loss=loss)
    stream = selector.stream(ratio=ratio, loss=loss)
    pieces = [stream.step(frames[:, index : index + 1]) for index in range(3)]
    assert stream.finish() is None
    alone = [selector.select(frames[clip : clip + 1], ratio=ratio, loss=loss) for clip in range(3)]
    for other in (Gaze.cat_frames(pieces), Gaze.cat_clips(alone)):
        assert torch.equal(other.ids, gaze.ids)
        assert torch.equal(other.lengths, gaze.lengths)
        assert torch.equal(other.losses, gaze.losses)


def test_batches_do_not_matter_at_full_size():
    frames = random_clips(PatchPyramid(), 3, 2, seed=0)
    gaze = Greedy().select(frames, ratio=0.1)
    alone = Gaze.cat_clips(
        [Greedy().select(frames[clip : clip + 1], ratio=0.1) for clip in (0, 1, 2)]
    )
    assert torch.equal(alone.ids, gaze.ids)
    assert torch.equal(alone.losses, gaze.losses)
    torch.testing.assert_close(gaze.losses, canvas_losses(frames, gaze), atol=1e-6, rtol=0)


def test_a_stream_may_be_fed_in_every_mode():
    pyramid = PatchPyramid((8, 16), 4)
    frames = random_clips(pyramid, 2, 3, seed=0)
    stream, pieces = Greedy(pyramid).stream(ratio=0.3), []
    for index, inference in enumerate((True, False, True)):
        with torch.inference_mode(inference):
            pieces.append(stream.step(frames[:, index : index + 1]))
    whole = Greedy(pyramid).select(frames, ratio=0.3)
    assert torch.equal(Gaze.cat_frames(pieces).ids, whole.ids)


def test_static_frames_cost_one_patch():
    for pyramid in EXACT:
        frames = still_clips(pyramid, 1, 4)
        for settings_ in ({"loss": 0.0}, {"ratio": 1.0}):
            gaze = Greedy(pyramid).select(frames, **settings_)
            assert gaze.lengths[0, 1:].tolist() == [1, 1, 1]
            # The lowest id of those that do no harm.
            assert gaze.frame(0, 1).tolist() == [pyramid.offsets[-1]]
            assert gaze.losses[0, 1:].tolist() == [0, 0, 0]


def test_a_cap_is_used_while_it_helps():
    pyramid = PatchPyramid((8, 16), 4)
    frames = still_clips(pyramid, 1, 4)
    gaze = Greedy(pyramid).select(frames, ratio=0.25)  # 5 of 20, 16 needed
    # Noise: only the finest cells show it, and one is left for the last frame.
    assert gaze.lengths.tolist() == [[5, 5, 5, 1]]
    losses = gaze.losses[0].tolist()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0


def test_ratio_and_loss_stop_whichever_comes_first():
    pyramid = PatchPyramid((8, 16, 24), 4)
    frames = random_clips(pyramid, 2, 3, seed=3)
    greedy = Greedy(pyramid)
    capped = greedy.select(frames, ratio=0.2)
    both = greedy.select(frames, ratio=0.2, loss=0.05)
    assert (both.lengths <= capped.lengths).all()
    assert ((both.losses <= 0.05) | (both.lengths == int(0.2 * pyramid.num_patches))).all()


def test_without_settings_the_default_loss_is_met():
    frames = random_clips(PatchPyramid(), 1, 2, seed=4)
    gaze = Greedy().select((frames * 255).to(torch.uint8))
    assert (gaze.losses <= Greedy.default_loss).all()


@pytest.mark.parametrize("bad", [{"loss": -0.1}, {"loss": float("nan")}, {"ratio": 0.0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(SelectorError):
        Greedy().stream(**bad)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_meets_the_same_losses():
    frames = random_clips(PatchPyramid(), 2, 3, seed=0)
    gaze = Greedy().select(frames.cuda(), loss=0.03)
    assert gaze.ids.is_cuda
    assert gaze.losses.is_cuda
    assert (gaze.losses <= 0.03).all()
    torch.testing.assert_close(
        gaze.losses.cpu(), canvas_losses(frames, gaze.to("cpu")), atol=1e-5, rtol=0
    )
