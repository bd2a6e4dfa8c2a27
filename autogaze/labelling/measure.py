"""How fast a search is, and how fast the naive one would be."""

from collections.abc import Sequence
from typing import Any

import torch

from autogaze.labelling.label import ClipToLabel, LabelSettings
from autogaze.labelling.naive import naive_seconds
from autogaze.labelling.search import Searcher, State
from autogaze.tasks.base import Task
from autogaze.utils.seeding import seeded


def measure_search(
    clip: ClipToLabel, searcher: Searcher, task: Task, settings: LabelSettings, samples: int
) -> dict[str, Any]:
    """Time both searches in `samples` states spread over that of a clip.

    They ask for the same reconstructions, the naive one each from the beginning, so the
    two rates tell the speed-up. How long one takes does not depend on which patches are
    chosen, only on how many: here they are drawn at random.
    """
    frames = clip.read()
    V = searcher.pyramid.num_patches
    generator = seeded("labels", settings.seed, clip.name)
    counts = settings.budget.draw(len(frames), V, generator)
    ids = [torch.randperm(V, generator=generator)[:count].tolist() for count in counts]
    states = spread_states(counts, V, samples)
    searcher.seconds(frames[:1], ids[:1], [State(0, 0)])  # once for what is made at first use
    fast = searcher.seconds(frames, ids, states)
    with searcher.precision():
        naive = naive_seconds(task, frames.to(searcher.device).float() / 255, ids, states)
    made = sum(searcher.num_candidates(picked) for count in counts for picked in range(count))
    return {
        "judge": searcher.identity,
        "clip": clip.name,
        "patches": sum(counts),
        "reconstructions": made,
        "reconstructions_a_second": round(1 / fast, 1),
        "naive_reconstructions_a_second": round(1 / naive, 1),
        "speed_up": round(naive / fast, 1),
        "seconds_a_clip": round(fast * made, 3),
        "naive_seconds_a_clip": round(naive * made, 1),
    }


def spread_states(counts: Sequence[int], num_patches: int, samples: int) -> list[State]:
    """States at equal distances in a search, by the reconstructions that it makes."""
    states = [State(frame, picked) for frame, n in enumerate(counts) for picked in range(n)]
    candidates = torch.tensor([num_patches - state.picked for state in states])
    ends = candidates.double().cumsum(0)
    places = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples * ends[-1]
    return [states[int(place)] for place in torch.searchsorted(ends, places)]
