"""Inhibition of return: patches that were gazed at come again as they change."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from autogaze import Gaze
from autogaze.errors import CheckpointError
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze import AutoGaze, streaming
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.models.autogaze.inhibition import FLOOR, InhibitionOfReturn, patch_pixels
from autogaze.models.autogaze.sampling import Sampling
from tests.gazes import same
from tests.models.autogaze.tiny import still_video, threshold_of, tiny_model, tiny_video

PYRAMID = PatchPyramid((32, 64), 16)
FEW = settings(max_examples=8, deadline=None)
ALL = torch.arange(PYRAMID.num_patches)[None]


def inhibited(seed: int = 0, **changes) -> AutoGaze:
    return tiny_model(seed, inhibition_of_return=0.05, **changes)


def kept(*ids: int) -> torch.Tensor:
    """Which of `ALL` are gazed at."""
    return torch.isin(ALL, torch.tensor(ids, dtype=torch.long))


def unit_pixels(frames: torch.Tensor) -> torch.Tensor:
    """What patches show of frames in [0, 1]."""
    return patch_pixels(normalise(frames), PYRAMID)


@given(st.integers(0, 50), st.integers(0, PYRAMID.num_patches - 1))
@FEW
def test_differences_of_patches_are_those_of_their_pixels(seed, patch):
    one, two = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    scale, row, column = PYRAMID.locate(patch)
    shown = F.avg_pool2d(one - two, 64 // scale)
    square = shown[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
    difference = unit_pixels(one)[patch] - unit_pixels(two)[patch]
    torch.testing.assert_close(difference, square.flatten(), atol=1e-5, rtol=0)


def test_probabilities_follow_the_change_since_the_gaze():
    inhibition, grey = InhibitionOfReturn(PYRAMID, 0.1), torch.full((1, 3, 64, 64), 0.5)
    assert inhibition.log_weights(unit_pixels(grey)).eq(0).all()
    inhibition.update(unit_pixels(grey), ALL, kept(0, 7))
    for step, share in [(0.0, 0.0), (0.025, 0.25), (0.05, 0.5), (0.2, 1.0)]:
        weights = inhibition.log_weights(unit_pixels(grey + step))[0]
        expected = min(0.0, math.log(share + FLOOR))
        assert weights[[0, 7]].tolist() == pytest.approx([expected] * 2, abs=1e-4)
        assert weights[~kept(0, 7)[0]].eq(0).all(), "nobody has gazed at these"


def test_a_patch_counts_from_its_last_gaze():
    inhibition, grey = InhibitionOfReturn(PYRAMID, 0.1), torch.full((1, 3, 64, 64), 0.5)
    inhibition.update(unit_pixels(grey), ALL, kept(5))
    inhibition.update(unit_pixels(grey + 0.2), ALL, kept())
    assert inhibition.log_weights(unit_pixels(grey + 0.2))[0, 5] == 0, "it is not shown this way"
    inhibition.update(unit_pixels(grey + 0.2), ALL, kept(5))
    assert inhibition.log_weights(unit_pixels(grey + 0.2))[0, 5] < -3
    assert inhibition.log_weights(unit_pixels(grey))[0, 5] == 0


def test_padding_is_no_gaze_whatever_its_ids():
    inhibition, grey = InhibitionOfReturn(PYRAMID, 0.1), torch.full((2, 3, 64, 64), 0.5)
    real, ids = torch.tensor([[True, False]] * 2), torch.tensor([[3, 7], [5, -99]])
    for brightness in (0.0, 0.2):  # the first frame and a later one
        pixels = unit_pixels(grey + brightness)
        inhibition.update(pixels, ids, real)
        assert (inhibition.log_weights(pixels) < -3).nonzero().tolist() == [[0, 3], [1, 5]]


def test_patches_covered_by_a_coarser_one_are_new():
    inhibition, pixels = InhibitionOfReturn(PYRAMID, 0.1), unit_pixels(torch.rand(1, 3, 64, 64))
    beneath, beside = PYRAMID.overlapping(0, 64)[0], PYRAMID.overlapping(1, 64)[-1]
    inhibition.update(pixels, ALL, kept(0, beneath, beside))
    assert inhibition.log_weights(pixels)[0, [0, beneath, beside]].max() < -3, "finest on top"
    inhibition.update(pixels, ALL, kept(0))
    assert inhibition.log_weights(pixels)[0, beneath] == 0
    assert inhibition.log_weights(pixels)[0, [0, beside]].max() < -3


def test_static_scenes_are_gazed_at_everywhere():
    """Finest patches that eight models see of one, in five frames of four patches."""

    def num_seen(model: AutoGaze, seed: int) -> int:
        gaze = model.generate(still_video(1, 5, seed), caps=[4] * 5).to_gaze()
        return int((gaze.mask[0].any(0) & (PYRAMID.levels == 1)).sum())

    plain = sum(num_seen(tiny_model(seed), seed) for seed in range(8))
    other = sum(num_seen(inhibited(seed), seed) for seed in range(8))
    assert other > 1.3 * plain


@given(st.integers(0, 50))
@FEW
def test_where_everything_changes_it_changes_nothing(seed):
    video = tiny_video(2, 3, seed)
    plain, other = (m.generate(video, caps=[7] * 3) for m in (tiny_model(seed), inhibited(seed)))
    assert same(plain.to_gaze(), other.to_gaze())


@pytest.mark.parametrize("static", [False, True])
@given(st.integers(0, 50), st.booleans(), st.sampled_from([1, 2, 6]))
@FEW
def test_streams_batches_and_repetitions_change_nothing(static, seed, stop, batch):
    """Also rows that stop at lengths of their own, and static shapes."""
    model, video = inhibited(seed), still_video(2, 3, seed)
    threshold = threshold_of(model, video) if stop else None
    sampling = Sampling(0.5, row_seeds=tuple(range(6)))
    caps = torch.randint(1, 21, (6, 3), generator=torch.Generator().manual_seed(seed))
    alone = []
    for row in range(6):
        own = Sampling(0.5, row_seeds=(row,))
        clip = video[row % 2 : row % 2 + 1]
        alone.append(
            model.generate(clip, caps=caps[row : row + 1], threshold=threshold, sampling=own)
        )
    model.static_shapes = static
    stream = model.stream(2, num_frames=3, repetitions=3)
    stream.batch = batch
    parts = [
        model.generate(
            frames,
            caps=caps[:, first : first + frames.shape[1]],
            threshold=threshold,
            sampling=sampling,
            stream=stream,
        ).to_gaze()
        for first, frames in ((0, video[:, :2]), (2, video[:, 2:]))
    ]
    whole = Gaze.cat_frames(parts)
    for row, expected in enumerate(alone):
        assert same(whole[row], expected.to_gaze()), row


def test_every_patch_is_still_there_to_be_taken():
    video = still_video(1, 3)
    assert inhibited().generate(video, caps=[20] * 3).to_gaze().ratio == 1


def test_frames_of_other_sizes_are_resized_once_for_all():
    model = inhibited()
    large = F.interpolate(still_video(1, 2)[0], scale_factor=2, mode="bilinear")[None]
    small = F.interpolate(large[0], (64, 64), mode="bicubic", align_corners=False)[None]
    assert same(
        model.generate(large, caps=[6, 6]).to_gaze(), model.generate(small, caps=[6, 6]).to_gaze()
    )


def test_frames_are_resized_within_the_memory_budget(monkeypatch):
    model, sizes = inhibited(), []
    model.memory_budget = 1
    resize = streaming.resize_clip
    monkeypatch.setattr(
        streaming,
        "resize_clip",
        lambda clips, side: sizes.append(len(clips)) or resize(clips, side),
    )
    model.generate(F.interpolate(still_video(3, 2)[:, 0], (32, 32))[:, None], caps=[4])
    assert sizes == [1, 1, 1]


def test_inhibition_counts_against_the_memory_budget():
    plain, other = tiny_model(), inhibited()
    for model in (plain, other):
        model.memory_budget = 1 << 22
    assert other.stream(100).batch < plain.stream(100).batch


def test_half_precision_inhibits_too():
    model, video = inhibited().bfloat16(), still_video(1, 5).bfloat16()
    plain = tiny_model().bfloat16()
    seen = [m.generate(video, caps=[4] * 5).to_gaze().mask.any(1).sum() for m in (model, plain)]
    assert seen[0] > seen[1]


def test_checkpoints_carry_it_and_callers_may_change_it(tmp_path):
    inhibited().save_pretrained(tmp_path)
    assert AutoGaze.from_pretrained(tmp_path).config.inhibition_of_return == 0.05
    loaded = AutoGaze.from_pretrained(tmp_path, inhibition_of_return=None)
    assert loaded.config.inhibition_of_return is None
    video = still_video(1, 2)
    plain = tiny_model().generate(video, caps=[9, 9]).to_gaze()
    assert same(loaded.generate(video, caps=[9, 9]).to_gaze(), plain)


@pytest.mark.parametrize("bad", [0, -0.1, float("nan"), float("inf"), True])
def test_changes_that_mean_nothing_are_refused(bad, tmp_path):
    with pytest.raises(CheckpointError, match="inhibition_of_return"):
        tiny_model(inhibition_of_return=bad)
    model = tiny_model()
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"^inhibition_of_return"):
        AutoGaze.from_pretrained(tmp_path, inhibition_of_return=bad)
    # What is set later is refused when it is used.
    model.config.inhibition_of_return = bad
    with pytest.raises(CheckpointError, match="inhibition_of_return"):
        model.generate(still_video(1, 1))
