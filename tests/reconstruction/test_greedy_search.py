"""Search cells, and the greedy search on a canvas."""

import pytest
import torch
from hypothesis import given, settings

from autogaze.errors import GeometryError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.reconstruction.greedy_search import TorchCanvasSearch, search_cells
from tests.selectors.clips import (
    pyramids,
    random_clips,
    seeds,
)

quick = settings(max_examples=25, deadline=None)


@quick
@given(pyramids, seeds)
def test_search_cells_divide_the_frame_and_every_patch(pyramid, seed):
    cells = search_cells(pyramid)
    images = torch.rand(2, 3, pyramid.side, pyramid.side)
    sums = cells.sums(images)
    torch.testing.assert_close(sums.sum(-1), images.sum((1, 2, 3)))
    for patch, held in enumerate(cells.of_patch):
        scale, row, column = pyramid.locate(patch)
        edges = pyramid.pixel_edges(scale)
        square = images[..., edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        torch.testing.assert_close(sums[:, held].sum(-1), square.sum((1, 2, 3)))


def test_the_default_pyramid_has_256_search_cells():
    assert len(search_cells(PatchPyramid()).owners) == 256


def test_a_search_leaves_the_loss_of_the_canvas():
    pyramid = PatchPyramid()
    frames = random_clips(pyramid, 2, 3, seed=0)
    canvas = TorchCanvasSearch(pyramid, num_clips=2)
    ids, losses = [], []
    for clip in range(2):  # clips do not wait for each other
        for index in range(3):
            search = canvas.start(frames[clip, index], clip)
            before = search.loss
            for _ in range(5 + index):
                patch = search.best()
                assert search.gains[patch] > 0
                search.take(patch)
            assert search.loss < before
            canvas.finish(search.chosen, clip)
            ids += search.chosen
            losses.append(search.loss)
    gaze = Gaze(pyramid, torch.tensor(ids), torch.tensor([[5, 6, 7]] * 2))
    wanted = canvas_losses(frames, gaze).flatten()
    torch.testing.assert_close(torch.tensor(losses), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"needs_gain": True}, {"threshold": 0.05}])
def test_the_best_patches_as_tensors(options):
    pyramid = PatchPyramid((8, 16), 4)
    frames = random_clips(pyramid, 2, 3, seed=1)
    counts = [4, 20, 1]
    found = TorchCanvasSearch(pyramid, 2).choose(frames, counts, **options)
    ids = [[[None] * count for count in counts]] * 2
    wanted = TorchCanvasSearch(pyramid, 2).search_clips(frames, ids, **options)
    assert found.ids.tolist() == [patch for clip in wanted for frame in clip for patch in frame.ids]
    assert found.lengths.tolist() == [[len(frame.ids) for frame in clip] for clip in wanted]
    losses = torch.tensor([[frame.losses[-1] for frame in clip] for clip in wanted])
    assert found.losses.equal(losses)


@pytest.mark.parametrize("counts", [[], [1], [1, 2, 0], [1, 2, 21], [1, 2, 3, 4]])
def test_counts_that_frames_cannot_have(counts):
    search = TorchCanvasSearch(PatchPyramid((8, 16), 4), 2)
    with pytest.raises(GeometryError):
        search.choose(torch.rand(2, 3, 3, 16, 16), counts)
    with pytest.raises(GeometryError):
        search.choose(torch.rand(1, 3, 3, 16, 16), [1, 1, 1])
