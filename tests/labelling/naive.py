"""The search as it is defined: every candidate reconstructed by itself, from the beginning."""

import torch

from autogaze.datasets.clip import GazeLabels
from autogaze.gaze import Gaze


@torch.no_grad()
def naive_labels(task, frames, counts):
    """Labels of (T, 3, S, S) frames in [0, 1], as `Searcher.label` must find them."""
    ids, losses = [], []
    for count in counts:
        chosen, after = [], []
        for _ in range(count):
            left = [patch for patch in range(task.pyramid.num_patches) if patch not in chosen]
            loss, best = min((last_loss(task, frames, [*ids, [*chosen, v]]), v) for v in left)
            chosen.append(best)
            after.append(loss)
        ids.append(tuple(chosen))
        losses.append(tuple(after))
    return GazeLabels(tuple(ids), tuple(losses))


def last_loss(task, frames, ids):
    """Loss of the last gazed frame under a gaze at the first frames."""
    lengths = torch.tensor([[len(frame) for frame in ids]])
    flat = torch.tensor([patch for frame in ids for patch in frame], dtype=torch.long)
    last = len(ids) - 1
    gaze = Gaze(task.pyramid, flat, lengths)
    return float(task(frames[None, : last + 1], gaze, [last]).losses[0, 0])
