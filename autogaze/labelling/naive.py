"""The search as it is defined: every candidate reconstructed by itself, from the beginning.

What the fast searches are compared with, in the tests and in `autogaze label --measure`.
"""

import time
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.datasets.clip import GazeLabels
from autogaze.gaze import Gaze
from autogaze.labelling.search import State
from autogaze.tasks.base import Task


@torch.no_grad()
def naive_labels(task: Task, frames: Float[Tensor, "T 3 S S"], counts: Sequence[int]) -> GazeLabels:
    """What `Searcher.label` finds, the slow way."""
    ids: list[tuple[int, ...]] = []
    losses: list[tuple[float, ...]] = []
    for count in counts:
        chosen: list[int] = []
        after: list[float] = []
        for _ in range(count):
            best = (float("inf"), -1)
            for patch in range(task.pyramid.num_patches):
                if patch not in chosen:
                    best = min(best, (naive_loss(task, frames, [*ids, (*chosen, patch)]), patch))
            chosen.append(best[1])
            after.append(best[0])
        ids.append(tuple(chosen))
        losses.append(tuple(after))
    return GazeLabels(tuple(ids), tuple(losses))


@torch.no_grad()
def naive_loss(task: Task, frames: Float[Tensor, "T 3 S S"], ids: Sequence[Sequence[int]]) -> float:
    """Loss of the last gazed frame under a gaze at the first frames."""
    lengths = torch.tensor([[len(frame) for frame in ids]])
    flat = torch.tensor([patch for frame in ids for patch in frame], dtype=torch.long)
    gaze = Gaze(task.pyramid, flat, lengths)
    last = len(ids) - 1
    return float(task(frames[None, : last + 1], gaze, [last]).losses[0, 0])


def naive_seconds(
    task: Task,
    frames: Float[Tensor, "T 3 S S"],
    ids: Sequence[Sequence[int]],
    states: Sequence[State],
) -> float:
    """Mean seconds of one naive reconstruction in these states of a search.

    Args:
        task: the judge.
        frames: of the clip.
        ids: patches chosen in every frame.
        states: where in the search.
    """

    def reconstruct(state: State) -> None:
        taken = ids[state.frame][: state.picked + 1]
        naive_loss(task, frames, [*ids[: state.frame], taken])  # waits for a GPU to finish

    reconstruct(states[0])  # once for what is made at first use
    began = time.perf_counter()
    for state in states:
        reconstruct(state)
    return (time.perf_counter() - began) / len(states)
