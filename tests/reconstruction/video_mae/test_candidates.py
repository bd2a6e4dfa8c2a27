"""Reconstructions of candidates are those of the whole model."""

import torch

from autogaze.reconstruction.video_mae.modeling import CandidateReconstruction, frames_of_cells
from tests.tasks.material import TINY, some_gaze, tiny_mae


@torch.no_grad()
def test_candidates_are_reconstructed_as_by_the_whole_model():
    mae, frames = tiny_mae(), torch.randn(4, 3, 32, 32)
    gaze = some_gaze(TINY.pyramid, 1, 4, seed=5)
    candidates = CandidateReconstruction(mae)
    for number in range(4):
        candidates.start(frames[number])
        ids = gaze.frame(0, number)
        made = frames_of_cells(candidates.reconstruct(ids[None]), TINY.pyramid)
        wanted = mae(frames[None], gaze, [number])[0]
        torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-4)
        candidates.finish(ids.tolist())
