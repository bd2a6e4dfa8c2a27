"""The kernels of the greedy search under Triton's interpreter: the C search's results, bit for bit.

Run by `tests/test_triton.py` with TRITON_INTERPRET=1. Tiny pyramids: a search cell of a frame takes
the interpreter a millisecond.
"""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autogaze.errors import GeometryError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.search import CanvasSearcher
from autogaze.reconstruction import triton_search
from autogaze.reconstruction.greedy_search import UNITS, SearchedFrame, TorchCanvasSearch
from autogaze.reconstruction.native_search import NativeCanvasSearch, built_search
from autogaze.reconstruction.search_kernel import SWITCH, new_canvas_search, search_kernel
from autogaze.reconstruction.triton_arguments import tables_of
from autogaze.reconstruction.triton_search import TritonCanvasSearch, _recorded, enough_of
from autogaze.selectors.greedy import Greedy
from tests.selectors.clips import CROPPED, random_clips, still_clips

TINY = (
    PatchPyramid((4, 8), 4),
    PatchPyramid((2, 4, 8), 2),  # a scale that is reduced from a coarse one
    PatchPyramid((5, 7), 3, crop=True),  # cells are no whole number of pixels wide
    PatchPyramid((6,), 3),
    CROPPED,
)


def in_c(pyramid: PatchPyramid, num_clips: int, block: int = 0) -> NativeCanvasSearch:
    library = built_search().library
    if library is None:
        pytest.skip(built_search().why)
    return NativeCanvasSearch(pyramid, num_clips, library, block)


def same(found: list[list[SearchedFrame]], wanted: list[list[SearchedFrame]]) -> bool:
    """Bit for bit, gains included."""
    pairs = [pair for clips in zip(found, wanted, strict=True) for pair in zip(*clips, strict=True)]
    return bool(pairs) and all(
        (one.ids, one.losses) == (other.ids, other.losses)
        and (one.gains is None) == (other.gains is None)
        and (one.gains is None or np.array_equal(one.gains, other.gains))
        for one, other in pairs
    )


def same_state(ours: TritonCanvasSearch, theirs: NativeCanvasSearch) -> bool:
    """The canvases, and the error sums of the last frame."""
    side = ours.pyramid.side
    canvases = theirs._canvases.mT[..., :side, :]
    return torch.equal(ours.canvases, canvases) and np.array_equal(ours.errors, theirs.errors)


@st.composite
def cases(draw):
    """A pyramid, frames, ids of every clip and frame, and when frames stop."""
    pyramid = draw(st.sampled_from(TINY))
    B, T, V = draw(st.integers(1, 2)), draw(st.integers(1, 2)), pyramid.num_patches
    frames = random_clips(pyramid, B, T, draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["floats", "bytes", "black", "still", "steps"]))
    if kind == "still":  # from the second frame on nothing is gained where all was taken
        frames = frames[:, :1].expand(-1, T, -1, -1, -1)
    if kind == "steps":  # many ties
        frames = frames.round()
    if kind == "black":
        frames = torch.zeros_like(frames)
    if kind != "floats":
        frames = (frames * 255).round().to(torch.uint8)
    ids = []
    for _ in range(B * T):
        known = draw(st.lists(st.integers(0, V - 1), unique=True, max_size=min(V, 3)))
        ids.append([*known, *[None] * draw(st.integers(0, V - len(known)))])
    threshold = draw(st.one_of(st.none(), st.floats(0, 0.3)))
    options = {"threshold": threshold, "needs_gain": draw(st.booleans())}
    return pyramid, frames, [ids[b * T : b * T + T] for b in range(B)], options


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cases(), st.booleans(), st.sampled_from([0, 3, 4]))
def test_what_c_finds(case, with_gains, block):
    pyramid, frames, ids, options = case
    ours, theirs = (
        TritonCanvasSearch(pyramid, len(frames), "cpu", block),
        in_c(pyramid, len(frames), block),
    )
    found, wanted = (
        search.search_clips(frames, ids, with_gains=with_gains, **options)
        for search in (ours, theirs)
    )
    assert same(found, wanted)
    assert same_state(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"needs_gain": True, "threshold": 0.0}])
def test_black_frames_after_others_and_frames_like_the_canvas(options):
    """Ties, gains of 0, a loss of 0: the lowest ids, or one patch alone."""
    pyramid = TINY[0]
    frames = torch.cat([still_clips(pyramid, 1, 2), torch.zeros(1, 1, 3, 8, 8)], 1)
    ids = [[[None] * pyramid.num_patches] * 3]
    ours, theirs = TritonCanvasSearch(pyramid, 1, "cpu"), in_c(pyramid, 1)
    [found], [wanted] = (search.search_clips(frames, ids, **options) for search in (ours, theirs))
    assert found == wanted
    assert same_state(ours, theirs)
    # The coarse patch would lose what the fine ones have.
    assert found[1].ids == ((1,) if options else (1, 2, 3, 4, 0))


def test_parts_of_a_clip_and_single_frames_are_the_whole(monkeypatch):
    """However few frames fit in memory; and copies of a search go on by themselves."""
    pyramid = TINY[0]
    frames = random_clips(pyramid, 2, 2, seed=3)
    ids = [[[None] * 3] * 2, [[2, None]] * 2]
    wanted = in_c(pyramid, 2).search_clips(frames, ids)
    monkeypatch.setattr(triton_search, "MEMORY", 1)
    parts, single = TritonCanvasSearch(pyramid, 2, "cpu"), TritonCanvasSearch(pyramid, 2, "cpu")
    assert parts.search_clips(frames, ids) == wanted
    assert single.search(frames[:, 0], [clip[0] for clip in ids]) == [clip[0] for clip in wanted]
    for search in (pickle.loads(pickle.dumps(copy.deepcopy(single))), single):
        found = search.search(frames[:, 1], [clip[1] for clip in ids])
        assert found == [clip[1] for clip in wanted]


def test_frames_of_other_layouts_and_types():
    pyramid = TINY[0]
    frames = random_clips(pyramid, 1, 1, seed=0)
    ids = [[[None] * 2]]
    wanted = in_c(pyramid, 1).search_clips(frames, ids)
    for given_ in (frames.mT.double().contiguous().mT, frames.repeat(1, 2, 1, 1, 1)[:, 1:]):
        assert TritonCanvasSearch(pyramid, 1, "cpu").search_clips(given_, ids) == wanted


@pytest.mark.parametrize("options", [{}, {"needs_gain": True}, {"threshold": 0.1}])
def test_the_best_patches_as_tensors(options):
    pyramid = TINY[0]
    frames = random_clips(pyramid, 2, 2, seed=1)
    found = TritonCanvasSearch(pyramid, 2, "cpu").choose(frames, [3, 5], **options)
    wanted = in_c(pyramid, 2).choose(frames, [3, 5], **options)
    assert found.ids.equal(wanted.ids)
    assert found.lengths.equal(wanted.lengths)
    assert found.losses.equal(wanted.losses)


def test_a_recording_is_not_used_without_the_tables_that_it_reads():
    pyramid, calls = TINY[1], _recorded(torch.device("cpu"), 0)
    frames = random_clips(pyramid, 1, 1, seed=3)

    def chosen() -> list[int]:
        return TritonCanvasSearch(pyramid, 1, "cpu").choose(frames, [4]).ids.tolist()

    wanted, before = chosen(), calls.recorder.num_recorded
    for num_recorded in (1, 1):
        assert chosen() == wanted
        assert calls.recorder.num_recorded - before == num_recorded
    replayed = calls.recorder.num_replayed
    tables_of.cache_clear()  # as sixteen other pyramids would have it
    assert chosen() == wanted
    assert calls.recorder.num_replayed == replayed
    assert chosen() == wanted
    assert calls.recorder.num_recorded - before == 2


def test_searches_that_are_recorded():
    """From the second one of a kind on; streams of other clips share them."""
    pyramid = TINY[0]
    frames = random_clips(pyramid, 2, 3, seed=2)
    for clip, num_frames in enumerate((3, 1)):
        ours, theirs = TritonCanvasSearch(pyramid, 1, "cpu"), in_c(pyramid, 1)
        for index in range(num_frames):
            frame, options = frames[clip : clip + 1, index : index + 1], {"threshold": index / 20}
            found = ours.choose(frame, [4], **options)
            wanted = theirs.choose(frame, [4], **options)
            assert found.ids.equal(wanted.ids)
            assert found.losses.equal(wanted.losses)
            assert same_state(ours, theirs)


@pytest.mark.parametrize("ids", [[[[20]]], [[[-1]]], [[[3, 3]]], [[[None] * 21]], [[[0]], [[1]]]])
def test_ids_that_are_no_patches(ids):
    with pytest.raises(GeometryError):
        TritonCanvasSearch(PatchPyramid((8, 16), 4), 1, "cpu").search_clips(
            torch.rand(1, 1, 3, 16, 16), ids
        )


def test_clips_without_frames():
    pyramid = TINY[0]
    search = TritonCanvasSearch(pyramid, 2, "cpu")
    assert search.search_clips(torch.rand(2, 0, 3, 8, 8), [[], []]) == [[], []]


@pytest.mark.parametrize("threshold", [0.0, 1e-9, 0.013, 0.02, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("pyramid", [TINY[2], PatchPyramid()], ids=str)
def test_the_error_that_is_little_enough(pyramid, threshold):
    """The largest number of units whose loss, in float32, is at most the threshold."""
    units, enough = 3 * pyramid.side**2 * UNITS, enough_of(pyramid, threshold)
    assert np.float32(enough / units) <= np.float32(threshold)
    if threshold < 1:
        assert np.float32((enough + 1) / units) > np.float32(threshold)
    assert enough_of(pyramid, None) == -1


def test_selector_and_labels_use_it(monkeypatch):
    """By the switch; gazes and labels are those of the other searches."""
    pyramid = TINY[0]
    frames = (random_clips(pyramid, 1, 2, seed=5) * 255).round().to(torch.uint8)
    ids = [[[None] * 3, [1, None]]]
    kinds = {"triton": TritonCanvasSearch, "torch": TorchCanvasSearch}
    results = []
    for name, kind in kinds.items():
        monkeypatch.setenv(SWITCH, name)
        assert search_kernel(pyramid).name == name
        assert isinstance(new_canvas_search(pyramid, 1), kind)
        labels = CanvasSearcher(pyramid, softness=0.1).follow_clips(frames, ids)
        results.append((Greedy(pyramid).select(frames, ratio=0.6), labels))
    (one, labels), (other, others) = results
    assert one.ids.equal(other.ids)
    assert one.lengths.equal(other.lengths)
    # PyTorch rounds sums of such small pictures otherwise.
    torch.testing.assert_close(one.losses, other.losses, atol=1e-6, rtol=0)
    for label, wanted in zip(labels, others, strict=True):
        assert label.ids == wanted.ids
        torch.testing.assert_close(label.targets, wanted.targets, atol=1e-4, rtol=0)
