"""The greedy search in C: PyTorch's bit for bit, and PyTorch's instead where it cannot be had."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.errors import GeometryError, SelectorError
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.greedy_search import Search, TorchCanvasSearch, search_cells
from autogaze.reconstruction.native_search import (
    NativeCanvasSearch,
    built_search,
    native_search,
)
from autogaze.reconstruction.search_kernel import SWITCH, new_canvas_search, search_kernel
from autogaze.selectors.greedy import Greedy
from tests.selectors.clips import EXACT, pyramids, random_clips, seeds

LARGE = (
    PatchPyramid(),
    PatchPyramid((56, 112, 224), 14),
    PatchPyramid((64, 128, 256), 16),
    PatchPyramid((96, 192, 384), 14, crop=True),
    PatchPyramid((56, 112, 196, 392), 14),
)


@pytest.fixture(autouse=True)
def settings_of_the_process(monkeypatch):
    """The kernel not chosen from outside; threads as before afterwards."""
    monkeypatch.delenv(SWITCH, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing compiled yet, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built_search.cache_clear()
    native_search.cache_clear()
    yield tmp_path
    built_search.cache_clear()
    native_search.cache_clear()


def native(pyramid, num_clips=1, block=0):
    built = built_search()
    if built.library is None:
        pytest.skip(built.why)
    return NativeCanvasSearch(pyramid, num_clips, built.library, block)


def canvases(search):
    """(B, 3, S, S): the canvases of either kind of search."""
    if isinstance(search, TorchCanvasSearch):
        return torch.cat([canvas.frames for canvas in search.canvases])
    return search._canvases.mT[..., : search.pyramid.side, :]


@st.composite
def requests(draw, pyramid, num_clips):
    """Ids of every clip, known or the best ones, and when frames stop."""
    V, ids = pyramid.num_patches, []
    for _ in range(num_clips):
        known = draw(st.lists(st.integers(0, V - 1), unique=True, max_size=min(V, 12)))
        # Known ones first: a best one may not be named again.
        ids.append([*known, *[None] * draw(st.integers(0, V - len(known)))])
    threshold = draw(st.one_of(st.none(), st.floats(0, 0.3)))
    return ids, {"threshold": threshold, "needs_gain": draw(st.booleans()), "with_gains": True}


def as_numpy_searches(errors, pyramid, ids, options):
    """The same search by `Search`, from error sums that are given."""
    errors = errors.copy()
    stale, errors[:, -1] = errors[:, -1].copy(), 0
    search, losses, gains = Search(search_cells(pyramid), errors, stale), [], []
    least = options["threshold"]
    for patch in ids:
        patch = search.best() if patch is None else patch
        if search.chosen and options["needs_gain"] and search.gains[patch] <= 0:
            break
        if search.chosen and least is not None and np.float32(search.loss) <= np.float32(least):
            break
        gains.append(search.gains[:-1].copy())
        search.take(patch)
        losses.append(search.loss)
    return tuple(search.chosen), tuple(losses), np.array(gains).reshape(-1, pyramid.num_patches)


@settings(max_examples=25, deadline=None)
@given(st.data(), pyramids, seeds, st.integers(1, 3), st.booleans(), st.sampled_from([0, 3, 8]))
def test_any_pyramid(data, pyramid, seed, num_clips, as_bytes, block):
    """Errors and canvases are PyTorch's but for rounding; choices follow from errors exactly."""
    frames = random_clips(pyramid, num_clips, 3, seed)
    if as_bytes:
        frames = (frames * 255).round().to(torch.uint8)
    ours, theirs = native(pyramid, num_clips, block), TorchCanvasSearch(pyramid, num_clips)
    for index in range(3):
        ids, options = data.draw(requests(pyramid, num_clips))
        before = canvases(ours).clone()
        found = ours.search(frames[:, index], ids, **options)
        for clip, each in enumerate(found):
            wanted = as_numpy_searches(ours.errors[clip], pyramid, ids[clip], options)
            assert (each.ids, each.losses) == wanted[:2]
            assert np.array_equal(each.gains, wanted[2])
        # PyTorch paints what was found, so that both go on from the same canvas.
        unit = frames[:, index] / 255 if as_bytes else frames[:, index]
        for clip, each in enumerate(found):
            theirs.canvases[clip].frames[0] = before[clip]
            expected = theirs.errors(unit[clip], clip)
            np.testing.assert_allclose(ours.errors[clip], expected, rtol=1e-5, atol=2.0**12)
            theirs.finish(each.ids, clip)
        torch.testing.assert_close(canvases(ours), canvases(theirs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pyramid", LARGE, ids=str)
def test_large_pyramids_bit_for_bit(pyramid):
    """Where PyTorch's products are added up in order, or in blocks, everything is the same."""
    found = search_kernel(pyramid)
    if found.library is None:
        pytest.skip(found.why)
    frames = random_clips(pyramid, 3, 2, seed=1)
    frames[2] = frames[2, :, :1]  # grey: equal errors, ties
    ours, theirs = new_canvas_search(pyramid, 3), TorchCanvasSearch(pyramid, 3)
    assert isinstance(ours, NativeCanvasSearch)
    V = pyramid.num_patches
    for index, options in ((0, {"threshold": 0.02}), (1, {"needs_gain": True})):
        ids = [[None] * V, [V - 1, 0, *[None] * 30], [None] * 9]
        some, others = (
            search.search(frames[:, index], ids, with_gains=True, **options)
            for search in (ours, theirs)
        )
        for one, other in zip(some, others, strict=True):
            assert (one.ids, one.losses) == (other.ids, other.losses)
            assert np.array_equal(one.gains, other.gains)
        assert torch.equal(canvases(ours), canvases(theirs))


@settings(max_examples=8, deadline=None)
@given(seeds, st.sampled_from([{"ratio": 0.1}, {"loss": 0.02}, {"ratio": 0.5, "loss": 0.01}]))
def test_both_kernels_gaze_alike(seed, options):
    frames, gazes = random_clips(PatchPyramid(), 2, 2, seed), []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("native", "torch"):
            patch.setenv(SWITCH, name)
            if name == "native" and native_search(PatchPyramid()).library is None:
                pytest.skip(native_search(PatchPyramid()).why)
            gazes.append(Greedy().select(frames, **options))
    assert torch.equal(gazes[0].ids, gazes[1].ids)
    assert torch.equal(gazes[0].lengths, gazes[1].lengths)
    assert torch.equal(gazes[0].losses, gazes[1].losses)


@pytest.mark.parametrize("num_clips", [1, 2, 5])
def test_threads_do_not_matter(num_clips):
    pyramid = PatchPyramid((48, 80), 16)
    frames = random_clips(pyramid, num_clips, 2, seed=0)
    found = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        search = native(pyramid, num_clips)
        found.append(
            [search.search(frames[:, index], [[None] * 9] * num_clips) for index in (0, 1)]
        )
    assert found[0] == found[1] == found[2]


def test_frames_of_any_layout():
    pyramid = PatchPyramid((12, 20), 4)
    frames = random_clips(pyramid, 2, 3, seed=0)
    ids = [[None] * 5] * 2
    wanted = native(pyramid, 2).search(frames[:, 1].contiguous(), ids)
    for given_ in (frames[:, 1], frames[:, 1].double(), frames[:, 1].mT.contiguous().mT):
        assert native(pyramid, 2).search(given_, ids) == wanted


@pytest.mark.parametrize("ids", [[[20]], [[-1]], [[3, 3]], [[None] * 21], [[0], [1]], []])
@pytest.mark.parametrize("make", [native, TorchCanvasSearch])
def test_ids_that_are_no_patches(make, ids):
    with pytest.raises(GeometryError):
        make(PatchPyramid((8, 16), 4)).search(torch.rand(1, 3, 16, 16), ids)


@pytest.mark.parametrize("make", [native, TorchCanvasSearch])
def test_frames_of_another_size(make):
    with pytest.raises(GeometryError, match=r"\b16\b.*\b20\b"):
        make(PatchPyramid((8, 16), 4)).search(torch.rand(1, 3, 20, 20), [[0]])


def test_copies_go_on_by_themselves():
    pyramid = PatchPyramid((12, 20), 4)
    frames = random_clips(pyramid, 1, 3, seed=0)
    search = native(pyramid)
    search.search(frames[:, 0], [[None] * 4])
    others = [copy.deepcopy(search), pickle.loads(pickle.dumps(search))]
    wanted = search.search(frames[:, 1], [[None] * 4])
    assert [other.search(frames[:, 1], [[None] * 4]) for other in others] == [wanted] * 2


# Where it cannot be had.


def test_the_switch(monkeypatch, fresh):
    monkeypatch.setenv(SWITCH, "torch")
    assert search_kernel(PatchPyramid()).why == "AUTOGAZE_SEARCH=torch"
    assert isinstance(new_canvas_search(PatchPyramid()), TorchCanvasSearch)
    assert not list(fresh.rglob("*.so"))
    monkeypatch.setenv(SWITCH, "fast")
    with pytest.raises(SelectorError, match="'fast'"):
        search_kernel(PatchPyramid())
    monkeypatch.setenv(SWITCH, "native")
    with pytest.raises(SelectorError, match="meta"):
        search_kernel(PatchPyramid(), "meta")


def test_no_compiler_falls_back_to_pytorch(monkeypatch, fresh):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(fresh))
    assert "no C compiler" in search_kernel(PatchPyramid()).why
    assert isinstance(new_canvas_search(PatchPyramid()), TorchCanvasSearch)
    monkeypatch.setenv(SWITCH, "native")
    with pytest.raises(SelectorError, match="no C compiler"):
        search_kernel(PatchPyramid())


def test_results_that_differ_in_a_bit_fall_back_to_pytorch(monkeypatch, fresh):
    native(PatchPyramid())
    plain = NativeCanvasSearch.search

    def changed(self, *args, **options):
        found = plain(self, *args, **options)
        self.errors[0, 0, 0] += 1
        return found

    monkeypatch.setattr(NativeCanvasSearch, "search", changed)
    assert "rounded" in search_kernel(PatchPyramid()).why


def test_a_stream_of_another_machine(monkeypatch, fresh):
    saved = pickle.dumps(native(EXACT[0]))
    built_search.cache_clear()
    monkeypatch.setenv("CC", "false")
    with pytest.raises(SelectorError, match="'false'"):
        pickle.loads(saved)
