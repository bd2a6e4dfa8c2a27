"""What every training-free selector promises, whatever it looks for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.clips import Clips, frame_cap
from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.selectors.change import Change
from autogaze.selectors.codec import Codec
from autogaze.selectors.controls import Centre, Random
from autogaze.selectors.finest_cells import cell_means, whole_frame
from autogaze.selectors.greedy import Greedy
from autogaze.selectors.run_length import RunLength
from tests.selectors.clips import CROPPED, EXACT, pyramids, random_clips, seeds

MAKERS = {
    "greedy": Greedy,
    "run-length": RunLength,
    "run-length since kept": lambda pyramid: RunLength(pyramid, since="kept"),
    "change": Change,
    "codec": Codec,
    "random": Random,
    "centre": Centre,
}
every_selector = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
quick = settings(max_examples=12, deadline=None)


def clips_with_motion(pyramid: PatchPyramid, num_clips: int, num_frames: int, seed: int) -> Clips:
    generator = torch.Generator().manual_seed(seed)
    grid = pyramid.grids[-1]
    motion = 4 * torch.rand(num_clips, num_frames, grid, grid, generator=generator)
    motion[motion < 2] = 0
    motion[:, 0] = 1e4
    return Clips(random_clips(pyramid, num_clips, num_frames, seed), motion)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_equal(gaze: Gaze, other: Gaze) -> None:
    assert torch.equal(gaze.lengths, other.lengths)
    assert torch.equal(gaze.ids, other.ids)


def test_caps_are_rounded_down_as_floats_are():
    assert frame_cap(0.29, 0, 100) == 28  # 0.29 * 100 is 28.999999999999996
    assert [frame_cap(ratio, 0, 265) for ratio in (0.001, 0.1, 0.75, 1)] == [1, 26, 198, 265]


@every_selector
@quick
@given(pyramid=pyramids, seed=seeds, data=st.data())
def test_caps_hold_and_every_frame_is_looked_at(make, pyramid, seed, data):
    num_frames = data.draw(st.integers(1, 5))
    share = st.floats(0.01, 1)
    ratio = data.draw(
        st.one_of(st.none(), share, st.lists(share, min_size=num_frames, max_size=num_frames + 1))
    )
    gaze = make(pyramid).select(
        clips_with_motion(pyramid, 2, num_frames, seed), ratio=ratio, generator=seeded(seed)
    )
    assert gaze.lengths.shape == (2, num_frames)  # a Gaze refuses ids twice or out of range
    caps = [frame_cap(ratio, frame, pyramid.num_patches) for frame in range(num_frames)]
    assert (gaze.lengths <= torch.tensor(caps)).all()
    assert (gaze.lengths >= 1).all()
    assert gaze.pyramid == pyramid


@every_selector
@quick
@given(pyramid=pyramids, seed=seeds, ratio=st.one_of(st.none(), st.floats(0.02, 1)))
def test_frame_by_frame_and_clip_by_clip_give_the_same(make, pyramid, seed, ratio):
    clips = clips_with_motion(pyramid, 2, 5, seed)
    selector = make(pyramid)
    gaze = selector.select(clips, ratio=ratio, generator=seeded(seed))
    stream = selector.stream(ratio=ratio, generator=seeded(seed))
    pieces = [stream.step(clips.frame(index)) for index in range(5)]
    last = stream.finish()
    assert_equal(Gaze.cat_frames([*pieces, *([last] if last is not None else [])]), gaze)

    one_source = seeded(seed)
    alone = [
        selector.select(
            Clips(clips.frames[clip : clip + 1], clips.motion[clip : clip + 1]),
            ratio=ratio,
            generator=one_source,
        )
        for clip in range(2)
    ]
    assert_equal(Gaze.cat_clips(alone), gaze)


@every_selector
def test_uint8_and_float_frames_give_the_same_gaze(make):
    pyramid = PatchPyramid((8, 16, 24), 4)
    clips = clips_with_motion(pyramid, 1, 4, seed=5)
    whole = (clips.frames * 255).round()
    floats = make(pyramid).select(Clips(whole / 255, clips.motion), ratio=0.3, generator=seeded())
    small = Clips(whole.to(torch.uint8), clips.motion)
    assert_equal(make(pyramid).select(small, ratio=0.3, generator=seeded()), floats)


@every_selector
def test_what_cannot_be_done_is_refused(make):
    pyramid = PatchPyramid((4, 8), 4)
    selector = make(pyramid)
    clips = clips_with_motion(pyramid, 1, 2, seed=0)
    for ratio in (0.0, -0.1, 1.01, float("nan"), [], [0.5, 0.0]):
        with pytest.raises(SelectorError, match="ratio"):
            selector.select(clips, ratio=ratio)
    with pytest.raises(SelectorError, match="1 ratios given"):
        selector.select(clips, ratio=[0.5])
    for loss in (-1.0, float("nan"), float("inf")):
        with pytest.raises(SelectorError, match="loss"):
            selector.select(clips, loss=loss)
    with pytest.raises(SelectorError, match="8 x 8"):
        selector.select(Clips(torch.zeros(1, 2, 3, 9, 9), clips.motion))
    with pytest.raises(SelectorError, match="no frames"):
        selector.select(torch.zeros(1, 0, 3, 8, 8))

    stream = selector.stream()
    with pytest.raises(SelectorError, match="one frame at a time"):
        stream.step(clips)
    stream.step(clips.frame(0))
    two = Clips(torch.zeros(2, 1, 3, 8, 8), torch.zeros(2, 1, 2, 2))
    with pytest.raises(SelectorError, match="started with 1 clips, got 2"):
        stream.step(two)
    stream.finish()
    with pytest.raises(SelectorError, match="finished"):
        stream.step(clips.frame(1))


@every_selector
def test_a_loss_needs_a_metric(make):
    selector = make(PatchPyramid((4, 8), 4))
    if selector.metric is None:
        with pytest.raises(SelectorError, match="use ratio instead"):
            selector.stream(loss=0.1)
    else:
        selector.stream(loss=0.1)


@pytest.mark.parametrize("make", [Greedy, RunLength, Change])
def test_values_outside_the_unit_range_are_refused(make):
    selector = make(PatchPyramid((4, 8), 4))
    for value in (float("nan"), -1.0, 3.0):
        frames = torch.zeros(1, 2, 3, 8, 8)
        frames[0, 1, 0, 0, 0] = value
        with pytest.raises(SelectorError, match=r"\[0, 1\]"):
            selector.select(frames)


@every_selector
def test_frames_that_are_not_finite_are_refused(make):
    pyramid = EXACT[0]
    clips = clips_with_motion(pyramid, 1, 2, seed=0)
    clips.frames[0, 1, 0, 0, 0] = float("nan")
    with pytest.raises(SelectorError, match="must be finite"):
        make(pyramid).select(clips, ratio=0.5)


def test_finishing_an_unfed_stream_gives_nothing():
    for make in MAKERS.values():
        assert make(PatchPyramid((4, 8), 4)).stream().finish() is None


@quick
@given(pyramids, st.data())
def test_a_whole_frame_is_shown_by_the_finest_scale_that_fits(pyramid, data):
    cap = data.draw(st.integers(1, pyramid.num_patches))
    ids = whole_frame(pyramid, cap).tolist()
    assert 1 <= len(set(ids)) == len(ids) <= cap
    fitting = [level for level, cells in enumerate(pyramid.cells) if cells <= cap]
    if fitting:
        start = pyramid.offsets[fitting[-1]]
        assert set(range(start, start + pyramid.cells[fitting[-1]])) <= set(ids)
    if cap < pyramid.cells[-1]:
        assert len(ids) == cap
    else:
        assert len(ids) == pyramid.cells[-1]


def test_the_rest_of_a_cap_is_spread():
    # 26 patches: the 16 of scale 64, and ten of the 49 of scale 112, all over the frame.
    ids = whole_frame(PatchPyramid(), 26).tolist()
    assert ids[:16] == list(range(4, 20))
    assert ids[16:] == [22, 27, 32, 37, 42, 46, 51, 56, 61, 66]


@pytest.mark.parametrize("pyramid", [*EXACT, CROPPED], ids=str)
def test_cell_means_are_means_of_cells(pyramid):
    images = torch.rand(2, pyramid.side, pyramid.side)
    means = cell_means(images, pyramid)
    edges, grid = pyramid.pixel_edges(pyramid.side), pyramid.grids[-1]
    for cell in range(pyramid.cells[-1]):
        row, column = divmod(cell, grid)
        square = images[:, edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        torch.testing.assert_close(means[:, cell], square.mean((1, 2)))
